-- SPDX-License-Identifier: Apache-2.0
-- One constant request for wrk, and the result as one line of JSON:
--     wrk -t1 -c64 -d3s -s bench/wrk.lua URL -- METHOD BODY_FILE [HEADER_NAME VALUE]...
-- BODY_FILE - sends no body. `request` and `response` stay undefined, so that wrk sends the same bytes again and again
-- without running Lua for each: what the client costs is then small and the same for every server.

function init(args)
    wrk.method = args[1]
    if args[2] ~= "-" then
        local file = assert(io.open(args[2], "rb"))
        wrk.body = file:read("*a")
        file:close()
    end
    for i = 3, #args - 1, 2 do
        wrk.headers[args[i]] = args[i + 1]
    end
end

-- status: answers of 400 and above; connect, read, write, timeout: what the sockets said.
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d,'
            .. '"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
        summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency.max, e.status, e.connect, e.read, e.write, e.timeout))
end
