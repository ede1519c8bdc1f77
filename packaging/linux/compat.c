/* What mlx-rs and MLX find in the executable on Linux. See README.md. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "few_rows.h"

/* The one Darwin call that mlx-rs makes outside MLX: a monotonic clock, to seed a random key. */
uint64_t mach_approximate_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* MLX's CPU backend computes every float32 product with cblas_sgemm, also those of a few rows, which
   are all that decoding is made of. OpenBLAS repacks the whole matrix for each of them. This
   definition is found first, since it is the executable's; what is not special goes on to OpenBLAS.
   The constants are the CBLAS standard's. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112, CONJ_TRANS = 113 };

typedef void sgemm_fn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                      int lda, const float *b, int ldb, float beta, float *c, int ldc);
void cblas_sgemv(int order, int trans, int rows, int columns, float alpha, const float *a, int lda,
                 const float *x, int incx, float beta, float *y, int incy);

static sgemm_fn *next_sgemm;

__attribute__((constructor)) static void find_next_sgemm(void) {
    next_sgemm = (sgemm_fn *)dlsym(RTLD_NEXT, "cblas_sgemm");
    if (!next_sgemm) abort(); /* The link line names OpenBLAS: it cannot be absent. */
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    bool plain = order == ROW_MAJOR && ta != CONJ_TRANS && tb != CONJ_TRANS;
    if (plain && m <= MOST_ROWS && ta == NO_TRANS && alpha == 1 && beta == 0 &&
        few_rows(tb == TRANS, m, n, k, a, lda, b, ldb, c, ldc))
        return;
    if (!plain || m != 1) {
        next_sgemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    int incx = ta == NO_TRANS ? 1 : lda;
    if (tb == NO_TRANS)
        cblas_sgemv(ROW_MAJOR, TRANS, k, n, alpha, b, ldb, a, incx, beta, c, 1);
    else
        cblas_sgemv(ROW_MAJOR, NO_TRANS, n, k, alpha, b, ldb, a, incx, beta, c, 1);
}
