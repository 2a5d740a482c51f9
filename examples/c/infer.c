/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the model `intent` what a text is about:  ./infer http://127.0.0.1:8000 "where is my parcel"
 * Builds with:  cc infer.c -o infer $(pkg-config --cflags --libs weir) */
#include <stdio.h>
#include <string.h>
#include <weir.h>

int main(int argc, char **argv)
{
    const char *place = argc > 1 ? argv[1] : "http://127.0.0.1:8000";
    const char *text = argc > 2 ? argv[2] : "where is my parcel";
    struct weir *w = NULL;
    struct weir_error e;
    if (weir_open(&w, place, &e) != WEIR_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int64_t shape[] = {1, 1};
    struct weir_string query = {text, strlen(text)};
    struct weir_tensor input = {.name = "text", .dtype = WEIR_BYTES, .rank = 2, .shape = shape, .strings = &query};
    struct weir_call call = WEIR_CALL_INIT;
    call.user = "example";
    call.timeout_us = 5000000;
    struct weir_result *r = NULL;
    if (weir_infer(w, "intent", &input, 1, &call, &r, &e) != WEIR_OK) {
        fprintf(stderr, "%s: %s\n", weir_code_name(e.code), e.text);
        weir_close(w);
        return 1;
    }
    for (size_t i = 0; i < weir_result_count(r); i++) {
        const struct weir_tensor *t = weir_result_output(r, i);
        if (t->strings) {
            printf("%s: %.*s\n", t->name, (int)t->strings[0].n, (const char *)t->strings[0].p);
        } else {
            printf("%s: %s, %zu bytes\n", t->name, weir_dtype_name(t->dtype), t->bytes);
        }
    }
    printf("version %s, request %s\n", weir_result_version(r), weir_result_request_id(r));
    weir_result_free(r);
    weir_close(w);
    return 0;
}
