/* SPDX-License-Identifier: Apache-2.0 */
/* Two answers of the Open Inference Protocol in JSON, compared (base/diff.h), and what class they predict.
 *
 * A captured answer says the class that the server saw in it, but not which output says it. The server may tell; else
 * it is the first output whose first text or whole number is the class in every record, else the first of floats whose
 * largest element stands for one and the same class wherever it is seen. The names of such an output's places are
 * learnt from the records. An answer that is compared with them predicts by the same rule.
 *
 * Thread: one at a time a scratch; a rule is read-only once learnt. */
#ifndef WEIR_CLI_ANSWERS_H
#define WEIR_CLI_ANSWERS_H

#include "base/diff.h"
#include "cli/records.h"

#define ANSWER_TEXTS 4096
#define RULE_CLASSES 100000u /* places whose names are learnt */

struct class_rule {
    const char *output; /* name; the records'. NULL: no class is known */
    bool scores;
    const char **name; /* by place, NULL: not seen; the records' */
    size_t n;
};
/* Texts of the records are referred to: the rule lives as long as they. output: as the server tells, or NULL; if it
 * contradicts the records, it is as if nothing had been told. */
void class_rule_learn(struct class_rule *rule, const struct records *r, const char *output);
void class_rule_done(struct class_rule *rule);
/* The class that an answer's outputs predict; false: none. small: room for one that has no name. */
bool class_of(const struct class_rule *rule, yyjson_val *outputs, char small[24], struct str *class);

struct scratch {
    double number[2][DIFF_ELEMENTS];
    struct str text[2][ANSWER_TEXTS];
};
/* Adds the pair; what the stable side has is looked for on the other. True: it agrees. */
bool answers_compare(struct diff_sum *sum, struct scratch *t, const struct class_rule *rule, struct str id,
                     yyjson_val *stable, yyjson_val *candidate);

#endif
