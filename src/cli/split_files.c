/* SPDX-License-Identifier: Apache-2.0 */
/* What is written of a split: the new server's weir.yaml, its manifests, and the one line of the old one as a diff.
 *
 * Thread: any; pure functions. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/conf_edit.h"
#include "cli/show.h"
#include "cli/split.h"

#define HOME "/var/lib/weir" /* of the data, in a container */
#define CONF "/etc/weir/weir.yaml"
#define ADMIN_PORT "8009"
#define TOKEN_DIR "/etc/weir-token" /* in a pod */

/* ---- what it is based on ---- */

void split_comment(struct buf *out, const struct split *s)
{
    const struct split_needs *n = &s->needs;

    buf_addf(out, "# Written by weir split: family %s, promoted out of the server at %s.\n# Memory: ", s->family,
             s->server);
    if (n->versions) {
        show_bytes(out, n->memory);
        buf_addf(out, " for %u loaded version%s (%u measured), the largest ", n->versions, n->versions == 1 ? "" : "s",
                 n->measured);
        show_bytes(out, n->largest);
        BUF_LIT(out, "; the limit leaves\n# room for one more of those beside them, and for ");
        show_bytes(out, n->buffers);
        BUF_LIT(out, " of requests and answers.\n");
    } else {
        BUF_LIT(out, "nothing of it was loaded, so this is a preset: look at `weir models` there, and change it.\n");
    }
    if (n->requests) {
        buf_addf(out, "# Processors: %.3g requests/s x %.3g ms of computing = %.2g cores, at a utilisation of %d %%.\n",
                 n->rate, n->service_s * 1e3, n->rate * n->service_s, SPLIT_UTILISATION);
    } else {
        BUF_LIT(out, "# Processors: it has answered nothing yet, so this is a preset.\n");
    }
}

/* ---- weir.yaml ---- */

/* A GPU's number there is another one. */
static const char *value_there(const struct split_setting *set)
{
    return strcmp(set->name, "device") == 0 && strncmp(set->value, "cuda:", 5) == 0 ? "cuda:0" : set->value;
}

/* "batch.max" and "batch.slo" become batch: {max: …, slo: …}; rows of one map stand beside each other. */
static void put_family(struct buf *out, const struct split *s)
{
    const char *in = "";
    size_t in_n = 0;

    BUF_LIT(out, "families:\n  ");
    conf_put(out, s->family);
    BUF_LIT(out, ": {place: worker");
    for (size_t i = 0; i < s->needs.n_settings; i++) {
        const struct split_setting *set = &s->needs.setting[i];
        const char *dot = strchr(set->name, '.'), *key = dot ? dot + 1 : set->name;
        size_t n = dot ? (size_t)(dot - set->name) : 0;

        if (set->preset || strcmp(set->name, "place") == 0) {
            continue;
        }
        if (in_n > 0 && (n != in_n || memcmp(in, set->name, n) != 0)) {
            BUF_LIT(out, "}");
            in_n = 0;
        }
        BUF_LIT(out, ", ");
        if (n > 0 && in_n == 0) {
            in = set->name;
            in_n = n;
            buf_addf(out, "%.*s: {", (int)n, in);
        }
        buf_addf(out, "%s: ", key);
        conf_put(out, value_there(set));
    }
    buf_addz(out, in_n > 0 ? "}}\n" : "}\n");
}

/* Gateways give it their versions over its admin plane, so that is open to them too, by a token. */
static void put_token_at(struct buf *out, const struct split *s, enum split_target target)
{
    switch (target) {
    case SPLIT_KUBERNETES:
        BUF_LIT(out, TOKEN_DIR "/admin-token");
        break;
    case SPLIT_COMPOSE:
        BUF_LIT(out, "/run/secrets/admin-token");
        break;
    case SPLIT_SYSTEMD:
        buf_addf(out, "/run/credentials/weir-%s.service/admin-token", s->to.service);
        break;
    }
}

void split_conf(struct buf *out, const struct split *s, enum split_target target)
{
    split_comment(out, s);
    BUF_LIT(out, "# Start it with: weir serve -c weir.yaml --role inference\n"
                 "admin: 0.0.0.0:" ADMIN_PORT "\n"
                 "admin_token_file: ");
    put_token_at(out, s, target);
    buf_addf(out,
             "\n"
             "listen: 0.0.0.0:%s\n"
             "store: sqlite:" HOME "/weir.db\n"
             "artifacts: " HOME "/artifacts\n"
             "drain: %" PRIu64 "s\n",
             s->to.port, s->needs.drain_s);
    put_family(out, s);
}

/* Text as a block under a key, each line behind so many blanks. */
static void put_block(struct buf *out, struct str text, unsigned blanks)
{
    for (const char *at = text.p, *end = text.p + text.n; at < end;) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        size_t n = nl ? (size_t)(nl - at) : (size_t)(end - at);

        buf_addf(out, "%*s%.*s\n", (int)blanks, "", (int)n, at);
        at += n + 1;
    }
}

/* ---- kubernetes ---- */

static void put_meta(struct buf *out, const struct split *s, const char *kind, const char *version)
{
    buf_addf(out, "---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n", version, kind, s->to.service);
    if (s->to.space[0]) {
        buf_addf(out, "  namespace: %s\n", s->to.space);
    }
    buf_addf(out, "  labels: {app.kubernetes.io/name: weir, app.kubernetes.io/instance: %s}\n", s->to.service);
}

static void put_selector(struct buf *out, const struct split *s, const char *before)
{
    buf_addf(out, "%s{app.kubernetes.io/name: weir, app.kubernetes.io/instance: %s}\n", before, s->to.service);
}

static void put_config_map(struct buf *out, const struct split *s)
{
    struct buf conf;

    buf_init(&conf, 1u << 20);
    split_conf(&conf, s, SPLIT_KUBERNETES);
    put_meta(out, s, "ConfigMap", "v1");
    BUF_LIT(out, "data:\n  weir.yaml: |\n");
    put_block(out, buf_str(&conf), 4);
    buf_done(&conf);
}

/* Without an address of its own: whoever asks sees all replicas, and weighs them itself. */
static void put_service(struct buf *out, const struct split *s)
{
    put_meta(out, s, "Service", "v1");
    if (s->to.outside) {
        buf_addf(out,
                 "  # %s is not a name of the cluster: this has external-dns make it; without that, let it lead here.\n"
                 "  annotations: {external-dns.alpha.kubernetes.io/hostname: \"%s\"}\n",
                 s->to.host, s->to.host);
    }
    BUF_LIT(out, "spec:\n  clusterIP: None\n");
    put_selector(out, s, "  selector: ");
    buf_addf(out,
             "  ports:\n"
             "    - {name: http, port: %s, targetPort: http}\n"
             "    - {name: admin, port: " ADMIN_PORT ", targetPort: admin}\n",
             s->to.port);
}

static void put_probe(struct buf *out, const char *name, const char *path, unsigned period_s, unsigned failures)
{
    buf_addf(out,
             "          %s:\n"
             "            httpGet: {path: %s, port: http}\n"
             "            periodSeconds: %u\n"
             "            timeoutSeconds: 3\n"
             "            failureThreshold: %u\n",
             name, path, period_s, failures);
}

static void put_container(struct buf *out, const struct split *s)
{
    const struct split_size *z = &s->size;

    buf_addf(out, "      containers:\n        - name: weir\n          image: \"%s\"\n", s->image);
    BUF_LIT(out, "          command: [weir, serve, -c, " CONF ", --role, inference]\n");
    buf_addf(out, "          ports: [{name: http, containerPort: %s}, {name: admin, containerPort: " ADMIN_PORT "}]\n",
             s->to.port);
    BUF_LIT(out, "          resources:\n");
    buf_addf(out, "            requests: {cpu: %um, memory: %" PRIu64 "Mi}\n", z->cpu_milli, z->memory_mib);
    buf_addf(out, "            limits: {memory: %" PRIu64 "Mi%s}\n", z->memory_max_mib,
             s->needs.gpu ? ", nvidia.com/gpu: 1" : "");
    put_probe(out, "startupProbe", "/v2/health/live", 1, 60);
    put_probe(out, "livenessProbe", "/v2/health/live", 10, 3);
    put_probe(out, "readinessProbe", "/v2/health/ready", 2, 2); /* a model may take minutes to load: no limit */
    buf_addf(out, "          lifecycle: {preStop: {sleep: {seconds: %d}}}\n", SPLIT_PRE_STOP_S);
    BUF_LIT(out, "          securityContext:\n"
                 "            allowPrivilegeEscalation: false\n"
                 "            readOnlyRootFilesystem: true\n"
                 "            capabilities: {drop: [ALL]}\n"
                 "          volumeMounts:\n"
                 "            - {name: config, mountPath: /etc/weir, readOnly: true}\n"
                 "            - {name: token, mountPath: " TOKEN_DIR ", readOnly: true}\n"
                 "            - {name: data, mountPath: " HOME "}\n"
                 "            - {name: tmp, mountPath: /tmp}\n");
}

static void put_deployment(struct buf *out, const struct split *s)
{
    put_meta(out, s, "Deployment", "apps/v1");
    BUF_LIT(out, "spec:\n");
    put_selector(out, s, "  selector:\n    matchLabels: ");
    BUF_LIT(out, "  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}\n"
                 "  template:\n    metadata:\n");
    put_selector(out, s, "      labels: ");
    buf_addf(out,
             "    spec:\n"
             "      automountServiceAccountToken: false\n"
             "      # what is under way may end: %d s until nobody finds the replica, %" PRIu64
             " s of drain, and some\n"
             "      terminationGracePeriodSeconds: %u\n"
             "      securityContext:\n"
             "        {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532,\n"
             "         seccompProfile: {type: RuntimeDefault}}\n",
             SPLIT_PRE_STOP_S, s->needs.drain_s, s->size.grace_s);
    if (s->needs.gpu) {
        BUF_LIT(out, "      nodeSelector: {nvidia.com/gpu.present: \"true\"}\n"
                     "      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]\n");
    }
    put_container(out, s);
    buf_addf(out,
             "      volumes:\n"
             "        - {name: config, configMap: {name: %s}}\n"
             "        - {name: token, secret: {secretName: %s-admin}}\n"
             "        - {name: data, emptyDir: {}}\n"
             "        - {name: tmp, emptyDir: {}}\n",
             s->to.service, s->to.service);
}

static void put_scaling(struct buf *out, const struct split *s)
{
    put_meta(out, s, "HorizontalPodAutoscaler", "autoscaling/v2");
    buf_addf(out,
             "spec:\n"
             "  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s}\n"
             "  minReplicas: %u\n"
             "  maxReplicas: %u\n"
             "  metrics:\n"
             "    - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: %d}}}\n",
             s->to.service, s->size.replicas, s->size.replicas_max, SPLIT_UTILISATION);
    put_meta(out, s, "PodDisruptionBudget", "policy/v1");
    BUF_LIT(out, "spec:\n  maxUnavailable: 1\n");
    put_selector(out, s, "  selector:\n    matchLabels: ");
}

/* ---- compose ---- */

static void put_compose(struct buf *out, const struct split *s)
{
    const struct split_size *z = &s->size;

    split_comment(out, s);
    buf_addf(out,
             "services:\n"
             "  %s:\n"
             "    image: \"%s\"\n"
             "    command: [weir, serve, -c, " CONF ", --role, inference]\n"
             "    ports: [\"%s:%s\", \"" ADMIN_PORT ":" ADMIN_PORT "\"]\n"
             "    secrets: [admin-token]\n"
             "    volumes:\n"
             "      - {type: bind, source: ./weir.yaml, target: " CONF ", read_only: true}\n"
             "      - {type: volume, source: data, target: " HOME "}\n"
             "    tmpfs: [/tmp]\n"
             "    read_only: true\n"
             "    cap_drop: [ALL]\n"
             "    security_opt: [\"no-new-privileges:true\"]\n"
             "    restart: unless-stopped\n"
             "    stop_grace_period: %us\n"
             "    healthcheck:\n"
             "      test: [CMD, weir, doctor, --ready, --token-file, /run/secrets/admin-token]\n"
             "      interval: 5s\n"
             "      timeout: 3s\n"
             "      retries: 3\n"
             "      start_period: 300s\n",
             s->to.service, s->image, s->to.port, s->to.port, z->grace_s - SPLIT_PRE_STOP_S);
    buf_addf(out,
             "    deploy:\n"
             "      resources:\n"
             "        limits: {memory: %" PRIu64 "M}\n"
             "        reservations:\n"
             "          cpus: \"%u.%02u\"\n"
             "          memory: %" PRIu64 "M\n",
             z->memory_max_mib, z->cpu_milli / 1000, z->cpu_milli % 1000 / 10, z->memory_mib);
    if (s->needs.gpu) {
        BUF_LIT(out, "          devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]\n");
    }
    BUF_LIT(out, "volumes:\n  data: {}\nsecrets:\n  admin-token: {file: ./admin-token}\n");
}

/* ---- systemd ---- */

static void put_unit(struct buf *out, const struct split *s)
{
    const struct split_size *z = &s->size;

    split_comment(out, s);
    buf_addf(out,
             "# Put weir.yaml to /etc/weir/%s.yaml, admin-token to /etc/weir/%s-token (mode 0600, of root),\n"
             "# this to /etc/systemd/system/weir-%s.service.\n"
             "[Unit]\n"
             "Description=Weir, inference of family %s\n"
             "Wants=network-online.target\n"
             "After=network-online.target\n"
             "\n"
             "[Service]\n"
             "Type=exec\n"
             "ExecStart=/usr/local/bin/weir serve -c /etc/weir/%s.yaml --data /var/lib/weir-%s --role inference\n"
             "Restart=on-failure\n"
             "RestartSec=1\n"
             "KillMode=mixed\n"
             "TimeoutStopSec=%u\n"
             "DynamicUser=yes\n"
             "StateDirectory=weir-%s\n"
             "LoadCredential=admin-token:/etc/weir/%s-token\n"
             "LimitNOFILE=20000\n",
             s->to.service, s->to.service, s->to.service, s->family, s->to.service, s->to.service,
             z->grace_s - SPLIT_PRE_STOP_S, s->to.service, s->to.service);
    buf_addf(out,
             "\n"
             "# Each worker gets a control group of its own below this one.\n"
             "Delegate=yes\n"
             "MemoryAccounting=yes\n"
             "MemoryLow=%" PRIu64 "M\n"
             "MemoryMax=%" PRIu64 "M\n",
             z->memory_mib, z->memory_max_mib);
    BUF_LIT(out, "\n"
                 "NoNewPrivileges=yes\n"
                 "CapabilityBoundingSet=\n"
                 "ProtectSystem=strict\n"
                 "ProtectHome=yes\n"
                 "PrivateTmp=yes\n"
                 "ProtectKernelTunables=yes\n"
                 "ProtectKernelModules=yes\n"
                 "ProtectKernelLogs=yes\n"
                 "ProtectClock=yes\n"
                 "ProtectHostname=yes\n"
                 "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"
                 "RestrictNamespaces=yes\n"
                 "RestrictRealtime=yes\n"
                 "RestrictSUIDSGID=yes\n"
                 "LockPersonality=yes\n"
                 "SystemCallArchitectures=native\n");
    if (s->needs.gpu) {
        BUF_LIT(out, "DevicePolicy=closed\n"
                     "DeviceAllow=char-nvidia rw\n"
                     "DeviceAllow=char-nvidia-uvm rw\n"
                     "DeviceAllow=char-nvidia-frontend rw\n");
    } else {
        BUF_LIT(out, "PrivateDevices=yes\n");
    }
    BUF_LIT(out, "\n[Install]\nWantedBy=multi-user.target\n");
}

void split_manifest(struct buf *out, const struct split *s, enum split_target target)
{
    switch (target) {
    case SPLIT_KUBERNETES:
        split_comment(out, s);
        put_config_map(out, s);
        put_service(out, s);
        put_deployment(out, s);
        put_scaling(out, s);
        break;
    case SPLIT_COMPOSE:
        put_compose(out, s);
        break;
    case SPLIT_SYSTEMD:
        put_unit(out, s);
        break;
    }
}

/* ---- the diff ---- */

#define CONTEXT 3

/* The start of each line, and the end of the last one. */
struct lines {
    const char **at;
    size_t n;
};

static struct lines lines_of(struct str text)
{
    struct lines l = {0};
    const char *end = text.p + text.n;

    for (const char *at = text.p; text.n > 0 && at < end;) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));

        l.at = xrealloc(l.at, (l.n + 2) * sizeof(l.at[0]));
        l.at[l.n++] = at;
        at = nl ? nl + 1 : end;
        l.at[l.n] = at;
    }
    return l;
}

static struct str line_at(const struct lines *l, size_t i)
{
    return (struct str){l->at[i], (size_t)(l->at[i + 1] - l->at[i])};
}

static void put_lines(struct buf *out, const struct lines *l, size_t from, size_t to, char mark)
{
    for (size_t i = from; i < to; i++) {
        struct str line = line_at(l, i);

        buf_addc(out, mark);
        buf_add(out, line.p, line.n);
        if (line.p[line.n - 1] != '\n') {
            BUF_LIT(out, "\n\\ No newline at end of file\n");
        }
    }
}

/* Of two ranges of lines: those of the longest common subsequence stay, the others go and come. */
static void put_changes(struct buf *out, const struct lines *x, const struct lines *y, size_t head, size_t x_end,
                        size_t y_end)
{
    size_t n = x_end - head, m = y_end - head, *common = xcalloc((n + 1) * (m + 1), sizeof(*common)), i = 0, j = 0;

#define COMMON(a, b) common[(a) * (m + 1) + (b)]
    for (size_t a = n; a-- > 0;) {
        for (size_t b = m; b-- > 0;) {
            COMMON(a, b) = str_eq(line_at(x, head + a), line_at(y, head + b)) ? COMMON(a + 1, b + 1) + 1
                                                                              : MAX(COMMON(a + 1, b), COMMON(a, b + 1));
        }
    }
    while (i < n || j < m) {
        if (i < n && j < m && str_eq(line_at(x, head + i), line_at(y, head + j))) {
            put_lines(out, x, head + i, head + i + 1, ' ');
            i++;
            j++;
        } else if (i < n && (j == m || COMMON(i + 1, j) >= COMMON(i, j + 1))) {
            put_lines(out, x, head + i, head + i + 1, '-');
            i++;
        } else {
            put_lines(out, y, head + j, head + j + 1, '+');
            j++;
        }
    }
#undef COMMON
    free(common);
}

void split_diff(struct buf *out, const char *path, struct str a, struct str b)
{
    struct lines x = lines_of(a), y = lines_of(b);
    size_t head = 0, tail = 0, from, x_end, y_end;

    while (head < x.n && head < y.n && str_eq(line_at(&x, head), line_at(&y, head))) {
        head++;
    }
    while (tail < x.n - head && tail < y.n - head && str_eq(line_at(&x, x.n - 1 - tail), line_at(&y, y.n - 1 - tail))) {
        tail++;
    }
    from = head > CONTEXT ? head - CONTEXT : 0;
    x_end = x.n - tail + MIN(tail, (size_t)CONTEXT);
    y_end = y.n - tail + MIN(tail, (size_t)CONTEXT);
    if (head < x.n || head < y.n) {
        /* of an empty range the line before it is named */
        buf_addf(out, "--- %s\n+++ %s\n@@ -%zu,%zu +%zu,%zu @@\n", path, path, x_end > from ? from + 1 : from,
                 x_end - from, y_end > from ? from + 1 : from, y_end - from);
        put_lines(out, &x, from, head, ' ');
        put_changes(out, &x, &y, head, x.n - tail, y.n - tail);
        put_lines(out, &x, x.n - tail, x_end, ' ');
    }
    free(x.at);
    free(y.at);
}
