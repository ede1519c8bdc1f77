#pragma once
#include <stdbool.h>

/* The most rows for which `few_rows` is faster than a general product. */
enum { MOST_ROWS = 32 };

/* c[m][n] = a[m][k] * b in float32, rows of `lda`, `ldb` and `ldc` floats. b: transposed, [n][k], as
   the weights of a linear layer and the keys of attention are; or [k][n], as its values are, with n a
   multiple of 8. An element of c is the same number whatever m is. False when this processor, or this
   function, cannot, with nothing done. */
bool few_rows(bool transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float *c, int ldc);
