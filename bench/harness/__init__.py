# SPDX-License-Identifier: Apache-2.0
"""The parts of bench/run.py.

base       where things are, running a client, what the machine did meanwhile
request    the requests, and reading the numbers of an answer
process    a server with all processes below it: start, CPU, memory, stop
servers    how each server and yardstick is started
peers      setting the peers up, pinned, in a folder of the build; starting them
workloads  the tables: which servers, which request, how many connections, which ratios must hold
measure    a workload: everything in alternation, round by round
overload, kills, start   the three workloads that are not "so many connections for so many seconds"
stats      percentiles, spreads, ratios against limits: no input or output
report     tables and CSV files
"""
