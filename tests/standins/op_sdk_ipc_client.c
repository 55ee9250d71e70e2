/* Stand-in for libop_sdk_ipc_client, the library of the 1Password app that its SDK loads (contract, section 5).
 *
 * Two functions, one reply each. What the app knows and what its person does stands in files beside this library,
 * which is found by dladdr, so that each test has an app of its own: `control` (key=value lines), `answers` (lines
 * of REFERENCE, tab, JSON of the response), `log` (one line for each thing that happens, appended).
 *
 * The app authorizes a process, until it locks (`epoch` counts up): a client of an earlier epoch gets
 * DesktopSessionExpired, and the next init_client asks the person again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

typedef struct { char *at; size_t len, cap; } text;

static int granted = -1;            /* the epoch in which the person approved */
static int client_epochs[64];       /* by client id, which counts from 1 */
static int clients, invokes;
static uint8_t *given;              /* the reply that is not freed yet */
static size_t given_len, given_cap;

static void add(text *t, const char *what, size_t n) {
    if (t->len + n + 1 > t->cap) {
        t->cap = (t->len + n + 1) * 2;
        t->at = realloc(t->at, t->cap);
    }
    memcpy(t->at + t->len, what, n);
    t->at[t->len += n] = 0;
}

static void adds(text *t, const char *what) { add(t, what, strlen(what)); }

static void path_of(const char *name, char *path, size_t size) {
    Dl_info info;
    dladdr((void *)path_of, &info);
    snprintf(path, size, "%s", info.dli_fname);
    char *end = strrchr(path, '/') + 1;
    snprintf(end, size - (size_t)(end - path), "%s", name);
}

static text contents(const char *name) {
    char path[4096];
    text t = {0};
    adds(&t, "\n");
    path_of(name, path, sizeof path);
    FILE *file = fopen(path, "r");
    char chunk[65536];
    size_t n;
    while (file && (n = fread(chunk, 1, sizeof chunk, file)) > 0) add(&t, chunk, n);
    if (file) fclose(file);
    return t;
}

/* The value of `key` in `control`, to be freed; "" when it is not there. */
static char *setting(const char *key) {
    text all = contents("control");
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\n%s=", key);
    char *at = strstr(all.at, wanted);
    if (at) at += strlen(wanted);
    char *value = at ? strndup(at, strcspn(at, "\n")) : strdup("");
    free(all.at);
    return value;
}

static int number(const char *key) {
    char *value = setting(key);
    int n = atoi(value);
    free(value);
    return n;
}

static int is(const char *key, const char *wanted) {
    char *value = setting(key);
    int same = !strcmp(value, wanted);
    free(value);
    return same;
}

static void note(const char *what, const char *how) {
    char path[4096], line[512];
    int open_to_all = -1;
#ifdef __linux__
    open_to_all = prctl(PR_GET_DUMPABLE);
#endif
    path_of("log", path, sizeof path);
    int n = snprintf(line, sizeof line, "%d\t%s\t%s\t%d\n", (int)getpid(), what, how, open_to_all);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (write(fd, line, (size_t)n) != n) abort();
    close(fd);
}

static void hang(void) {
    for (;;) pause();
}

static text decoded(const char *request) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    text out = {0};
    unsigned bits = 0;
    int have = 0;
    const char *at = strstr(request, "\"payload\": \"");
    for (at = at ? at + 12 : ""; *at && *at != '"' && *at != '='; at++) {
        bits = bits << 6 | (unsigned)(strchr(digits, *at) - digits);
        if ((have += 6) >= 8) {
            char byte = (char)(bits >> (have -= 8) & 0xff);
            add(&out, &byte, 1);
        }
    }
    return out;
}

static void reply(int success, const char *payload, uint8_t **out, size_t *len, size_t *cap) {
    text t = {0};
    char byte[8];
    adds(&t, success ? "{\"success\":true,\"payload\":[" : "{\"success\":false,\"payload\":[");
    for (size_t i = 0; payload[i]; i++) {
        snprintf(byte, sizeof byte, i ? ",%u" : "%u", (unsigned)(uint8_t)payload[i]);
        adds(&t, byte);
    }
    adds(&t, "]}");
    *out = given = (uint8_t *)t.at;
    *len = given_len = t.len;
    *cap = given_cap = t.cap;
}

static const char EXPIRED[] = "{\"name\":\"DesktopSessionExpired\",\"message\":\"session expired\"}";

/* Ask the person unless this process is authorized; returns whether it is then. */
static int authorized(int epoch) {
    if (granted == epoch) return 1;
    char *answer = setting("prompt");
    note("prompt", answer);
    if (!strcmp(answer, "hang")) hang();
    usleep((useconds_t)number("prompt_ms") * 1000);
    if (!strcmp(answer, "approve")) granted = epoch;
    free(answer);
    return granted == epoch;
}

static int init_client(char **payload) {
    int epoch = number("epoch");
    if (is("init", "hang") || (clients && client_epochs[clients] != epoch && number("hangs_after_lock"))) {
        note("init_client", "hang");
        hang();
    }
    usleep((useconds_t)number("init_ms") * 1000);
    *payload = setting("init_error");
    if (**payload) {
        note("init_client", "error");
        return 0;
    }
    free(*payload);
    if (!authorized(epoch)) {
        note("init_client", "refused");
        *payload = setting("dismissed");
        return 0;
    }
    note("init_client", "ok");
    client_epochs[++clients] = epoch;
    *payload = malloc(16);
    snprintf(*payload, 16, "%d", clients);
    return 1;
}

/* The response to every reference that the request names; they are plain ASCII, or the SDK would have refused them. */
static char *resolved(const char *request) {
    text answers = contents("answers"), out = {0};
    const char *at = strstr(request, "\"secret_references\": [");
    at = at ? at + 22 : "]";
    adds(&out, "{\"individualResponses\":{");
    for (int first = 1; *at != ']'; first = 0) {
        at = strchr(at, '"') + 1;
        size_t n = strcspn(at, "\"");
        text wanted = {0};
        adds(&wanted, "\n");
        add(&wanted, at, n);
        adds(&wanted, "\t");
        char *found = strstr(answers.at, wanted.at);
        adds(&out, first ? "\"" : ",\"");
        add(&out, at, n);
        adds(&out, "\":");
        if (found) {
            found += wanted.len;
            add(&out, found, strcspn(found, "\n"));
        } else {
            adds(&out, "{\"content\":null,\"error\":{\"type\":\"itemNotFound\"}}");
        }
        free(wanted.at);
        at += n + 1;
    }
    adds(&out, "}}");
    free(answers.at);
    return out.at;
}

static int invoke(const char *request, char **payload) {
    const char *id = strstr(request, "\"clientId\": ");
    int client = id ? atoi(id + 12) : 0;
    invokes++;
    if (is("invoke", "hang")) {
        note("invoke", "hang");
        hang();
    }
    if (is("invoke", "crash")) {
        note("invoke", "crash");
        abort();
    }
    usleep((useconds_t)number("invoke_ms") * 1000);
    if (client < 1 || client > clients) {
        note("invoke", "stranger");
        *payload = strdup("{\"name\":\"Internal\",\"message\":\"invalid client id\"}");
        return 0;
    }
    int from = number("expire_from");
    if (client_epochs[client] != number("epoch") || invokes == number("expire") || (from && invokes >= from)) {
        granted = -1;
        note("invoke", "expired");
        *payload = strdup(EXPIRED);
        return 0;
    }
    *payload = setting("invoke_error");
    if (**payload) {
        note("invoke", "error");
        return 0;
    }
    free(*payload);
    note("invoke", strstr(request, "\"SecretsResolveAll\"") ? "resolve_all" : "other");
    *payload = setting("instead");
    if (**payload) return 1;
    free(*payload);
    *payload = resolved(request);
    return 1;
}

int32_t op_sdk_ipc_send_message(const uint8_t *message, size_t size, uint8_t **out, size_t *len, size_t *cap) {
    char *request = strndup((const char *)message, size), *payload = NULL;
    int code = number("code");
    if (number("chatter")) {
        puts("the library prints");
        fflush(stdout);
    }
    if (code) {
        note("call", "code");
        free(request);
        return code;
    }
    text inner = decoded(request);
    int success = 1;
    if (strstr(request, "\"kind\": \"init_client\"")) {
        success = init_client(&payload);
    } else if (strstr(request, "\"kind\": \"invoke\"")) {
        success = invoke(inner.at, &payload);
    } else {
        note("release_client", "ok");
        payload = strdup("null");
    }
    reply(success, payload, out, len, cap);
    free(payload);
    free(inner.at);
    free(request);
    return 0;
}

void op_sdk_ipc_free_response(uint8_t *response, size_t len, size_t cap) {
    if (response != given || len != given_len || cap != given_cap) abort();
    free(response);
    given = NULL;
}
