/* SPDX-License-Identifier: Apache-2.0 */
/* What two answers to the same request differ in, and the sum of it over many requests: of a version and its candidate,
 * or of a version with itself (the noise floor).
 *
 * An answer has outputs, and each is compared as what it is:
 *
 *     class      the predicted class of each row; where there are scores, also how many of the DIFF_TOP best are the
 *                same (all of them where there are fewer)
 *     numeric    a number differs when |y - x| > DIFF_ATOL + DIFF_RTOL |y|, y being the stable's; of each output the
 *                largest absolute and the largest relative difference, |y - x| / max(|y|, |x|)
 *     embedding  of each row of DIFF_WIDE floats or more that are no class scores: the cosine; equal from
 *                1 - DIFF_COSINE on
 *     text       equal to the byte or not; Levenshtein distance over the longer length, of the first DIFF_EDIT bytes;
 *                ratio of the lengths, the candidate's over the stable's
 *
 * A pair agrees when its classes are the same in every row, where a class is known, whatever else differs; without a
 * class, when all its outputs are equal. NaN equals NaN. An output that has another shape, or is not there, differs
 * wholly.
 *
 * The size of a difference is 0 to 1 whatever its kind, so that the largest can be kept together: class: the share of
 * rows that differ; numeric: the largest |y - x| / (|y| + |x|) of those that differ; embedding: (1 - cosine) / 2; text:
 * the distance. A pair is kept by its class first, else by the largest of its outputs.
 *
 * With labels the classes are a paired test: of the pairs of which exactly one side is right, how many are the
 * candidate's (base/stats.h, t = 1/2; the two sides share DIFF_ALPHA).
 *
 * Everything is bounded: classes go by the first DIFF_CLASS_NAME - 1 bytes of their names and are counted in DIFF_CELLS
 * pairs of names, of an output the caller gives at most DIFF_ELEMENTS elements, DIFF_LARGEST differences are kept.
 * Nothing is allocated.
 *
 * Thread: one at a time a sum; sums of several threads are merged. */
#ifndef WEIR_BASE_DIFF_H
#define WEIR_BASE_DIFF_H

#include "base/buf.h"

#define DIFF_ATOL 1e-5
#define DIFF_RTOL 1e-3
#define DIFF_COSINE 1e-4
#define DIFF_WIDE 64
#define DIFF_TOP 5
#define DIFF_EDIT 256
#define DIFF_EDITED 8 /* texts of one output whose distance is taken; of more it is only told that they differ */
#define DIFF_ELEMENTS 65536u
#define DIFF_CELLS 256
#define DIFF_CLASS_NAME 64
#define DIFF_LARGEST 50
#define DIFF_ID 128
#define DIFF_NAME 64
#define DIFF_SIDE 96
#define DIFF_ALPHA 0.05

enum diff_kind { DIFF_CLASS, DIFF_NUMERIC, DIFF_EMBEDDING, DIFF_TEXT, DIFF_KINDS };
extern const char *const diff_kind_names[]; /* "class", "numeric", "embedding", "text" */

/* A measure over everything it was taken of. */
struct diff_mean {
    uint64_t n;
    double sum, least, most;
};
struct diff_part {     /* one kind */
    uint64_t n, equal; /* class, embedding: rows; numeric: outputs; text: texts */
    /* class: share of the best in common; numeric: absolute, relative difference; embedding: cosine; text: distance,
     * ratio of lengths */
    struct diff_mean first, second;
};
struct diff_cell {
    uint64_t hash, count;
    char stable[DIFF_CLASS_NAME], candidate[DIFF_CLASS_NAME];
};
struct diff_example {
    double size;
    uint64_t at; /* row or element */
    enum diff_kind kind;
    char id[DIFF_ID + 1], output[DIFF_NAME], stable[DIFF_SIDE], candidate[DIFF_SIDE];
};
/* All zero: nothing was compared. */
struct diff_sum {
    uint64_t pairs, agree;
    struct diff_part part[DIFF_KINDS];
    uint64_t both_right, stable_right, candidate_right, both_wrong; /* pairs with a label */
    uint64_t other_cells;                                           /* rows that found no cell */
    uint32_t n_cells, n_largest;
    struct diff_cell cell[DIFF_CELLS];
    struct diff_example largest[DIFF_LARGEST]; /* by size, largest first; of equal ones the earlier */
};

/* ---- one pair: begin, then each output once, then end ---- */
struct diff_pair { /* private */
    struct diff_sum *sum;
    struct str id;
    bool by_class, same_class, equal;
    struct diff_example worst; /* size 0: none; of the class if that differs */
};
/* The id stays the caller's until diff_end. */
void diff_begin(struct diff_pair *p, struct diff_sum *sum, struct str id);
/* The predicted classes, row by row; another number of rows differs in all of them. At least one on either side. */
void diff_classes(struct diff_pair *p, struct str output, const struct str *stable, size_t n_stable,
                  const struct str *candidate, size_t n_candidate);
/* The scores that these classes are the best of: n of them on both sides, in rows of `width`. */
void diff_scores(struct diff_pair *p, const double *stable, const double *candidate, size_t n, size_t width);
/* Numbers of one shape. floats: rows of DIFF_WIDE or more are embeddings. */
void diff_numbers(struct diff_pair *p, struct str output, const double *stable, const double *candidate, size_t n,
                  size_t width, bool floats);
void diff_texts(struct diff_pair *p, struct str output, const struct str *stable, const struct str *candidate,
                size_t n);
/* What can not be compared element by element; how the sides look, for a person: "[1,4]", "none". */
void diff_shapes(struct diff_pair *p, struct str output, enum diff_kind kind, const char *stable,
                 const char *candidate);
/* True: the pair agrees. */
bool diff_end(struct diff_pair *p);

/* A label came for a pair: which side said it. */
void diff_label(struct diff_sum *s, bool stable_right, bool candidate_right);

/* ---- sums ---- */
void diff_merge(struct diff_sum *into, const struct diff_sum *from);
/* The share of pairs that agree; NaN without a pair. */
double diff_agreement(const struct diff_sum *s);
/* What the labels say of the candidate, at any time: 1 it is better, -1 worse, 0 not known. *ln_e: the evidence of the
 * side that it leans to; *trip: from where on it says something. */
int diff_verdict(const struct diff_sum *s, double *ln_e, double *trip);
/* As a JSON object; whole: with the classes and the largest differences. */
void diff_json(struct buf *b, const struct diff_sum *s, bool whole);

/* Levenshtein distance of two texts by bytes, of their first DIFF_EDIT bytes, over the longer of them: 0 to 1. Texts
 * that differ beyond those only: the least share that is not 0. */
double diff_edit(struct str a, struct str b);

#endif
