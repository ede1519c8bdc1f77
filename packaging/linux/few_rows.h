#pragma once
#include <stdbool.h>

/* The most rows for which `few_rows` is faster than a general product. */
enum { MOST_ROWS = 32 };

/* c[m][n] = a[m][k] * transposed b[n][k] in float32, rows of `lda`, `ldb` and `ldc` floats: a linear
   layer with weights b on the few rows of one decoding step. An element of c is the same number
   whatever m is. False when this processor cannot, with nothing done. */
bool few_rows(int m, int n, int k, const float *a, int lda, const float *b, int ldb, float *c,
              int ldc);
