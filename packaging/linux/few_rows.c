/* Decoding is limited by how fast weights, keys and values come from memory. A general product (GEMM)
   first repacks them, which pays when many rows use them; here each is read once, straight into
   multiplications with all rows, while the next ones are already asked for. */
#define _GNU_SOURCE
#include "few_rows.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#ifdef __x86_64__

#include <immintrin.h>

typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));

enum {
    LANES = 8,
    ROWS = 4, /* ROWS * COLUMNS sums and what they are made from fill the 16 registers */
    COLUMNS = 3,
    DOT_PIECE = 48,          /* columns of c that a thread takes at a time, b transposed */
    SUM_LANES = 2,           /* of b's columns, as it is: one line of the cache */
    SUM_PIECE = SUM_LANES * LANES,
    AHEAD = 16,              /* rows of b that are asked for before they are needed */
    WORTH_SHARING = 100000,  /* elements of b; fewer take less time than waking another thread */
    MOST_HELPERS = 3,
    SPINS = 4000, /* about 0.2 ms, so that a helper is awake from one layer to the next */
};

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE AVX2 static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4")

typedef struct {
    bool transposed; /* b */
    int m, n, k, lda, ldb, ldc;
    const float *a, *b;
    float *c;
} product;

/* The lanes' sum, in pairs: an order that does not depend on the block. */
INLINE float sum_of(lanes x) {
    __m256 all = (__m256)x;
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* With b transposed: `columns` of c from `column`, in `rows` from `row`. */
INLINE void dot_block(int rows, int columns, const product *p, int row, int column) {
    lanes sums[ROWS][COLUMNS] = {0};
    const float *a = p->a + (size_t)row * p->lda, *b = p->b + (size_t)column * p->ldb;
    float *c = p->c + (size_t)row * p->ldc + column;
    int i = 0;
    for (; i + LANES <= p->k; i += LANES) {
        lanes weights[COLUMNS];
        UNROLL for (int j = 0; j < columns; j++) {
            weights[j] = *(const lanes *)(b + (size_t)j * p->ldb + i);
            __builtin_prefetch(b + (size_t)(j + columns) * p->ldb + i);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            lanes x = *(const lanes *)(a + (size_t)r * p->lda + i);
            UNROLL for (int j = 0; j < columns; j++) sums[r][j] += x * weights[j];
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int j = 0; j < columns; j++) {
            float sum = sum_of(sums[r][j]);
            for (int rest = i; rest < p->k; rest++)
                sum += a[(size_t)r * p->lda + rest] * b[(size_t)j * p->ldb + rest];
            c[(size_t)r * p->ldc + j] = sum;
        }
    }
}

/* With b as it is: `groups` times LANES columns of c from `column`, in `rows` from `row`. */
INLINE void sum_block(int rows, int groups, const product *p, int row, int column) {
    lanes sums[ROWS][SUM_LANES] = {0};
    const float *a = p->a + (size_t)row * p->lda, *b = p->b + column;
    float *c = p->c + (size_t)row * p->ldc + column;
    for (int i = 0; i < p->k; i++, b += p->ldb) {
        __builtin_prefetch(b + (size_t)AHEAD * p->ldb);
        lanes values[SUM_LANES];
        UNROLL for (int g = 0; g < groups; g++) values[g] = *(const lanes *)(b + g * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            float x = a[(size_t)r * p->lda + i];
            UNROLL for (int g = 0; g < groups; g++) sums[r][g] += x * values[g];
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int g = 0; g < groups; g++)
            *(lanes *)(c + (size_t)r * p->ldc + g * LANES) = sums[r][g];
}

typedef void block(int rows, int width, const product *p, int row, int column);

/* With constants for the block, its rows and its width, its sums stay in registers. */
INLINE void all_rows(block *of, int width, const product *p, int column) {
    int row = 0;
    for (; row + ROWS <= p->m; row += ROWS) of(ROWS, width, p, row, column);
    switch (p->m - row) {
    case 3: of(3, width, p, row, column); break;
    case 2: of(2, width, p, row, column); break;
    case 1: of(1, width, p, row, column); break;
    }
}

/* Columns `begin` to `end` of c. */
AVX2 static void columns_of(const product *p, int begin, int end) {
    int j = begin;
    if (p->transposed) {
        for (; j + COLUMNS <= end; j += COLUMNS) all_rows(dot_block, COLUMNS, p, j);
        for (; j < end; j++) all_rows(dot_block, 1, p, j);
    } else {
        for (; j + SUM_PIECE <= end; j += SUM_PIECE) all_rows(sum_block, SUM_LANES, p, j);
        for (; j < end; j += LANES) all_rows(sum_block, 1, p, j);
    }
}

/* The product that helpers may join. One that comes too late finds it closed; only pieces already
   begun are waited for, so a helper that the system keeps waiting costs nothing. */
static struct {
    pthread_mutex_t lock; /* guards all but the two counters that are polled */
    pthread_cond_t opened;
    bool open;
    int sleeping;
    product p;
    atomic_int next;     /* the first column that nobody has taken */
    atomic_uint rounds;  /* products opened so far */
    atomic_int inside;   /* helpers at work */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static void take_pieces(void) {
    int piece = shared.p.transposed ? DOT_PIECE : SUM_PIECE;
    for (;;) {
        int begin = atomic_fetch_add(&shared.next, piece);
        if (begin >= shared.p.n) return;
        columns_of(&shared.p, begin, shared.p.n - begin < piece ? shared.p.n : begin + piece);
    }
}

static void *help(void *unused) {
    unsigned seen = 0;
    for (;;) {
        for (int spin = 0; spin < SPINS && atomic_load(&shared.rounds) == seen; spin++)
            __builtin_ia32_pause();
        pthread_mutex_lock(&shared.lock);
        while (!shared.open || atomic_load(&shared.rounds) == seen) {
            shared.sleeping++;
            pthread_cond_wait(&shared.opened, &shared.lock);
            shared.sleeping--;
        }
        seen = atomic_load(&shared.rounds);
        atomic_fetch_add(&shared.inside, 1);
        pthread_mutex_unlock(&shared.lock);
        take_pieces();
        atomic_fetch_sub(&shared.inside, 1);
    }
    return unused;
}

int openblas_get_num_threads(void);

/* As many threads as OpenBLAS may use, so that its variable OPENBLAS_NUM_THREADS holds here too. */
static void start_helpers(void) {
    int threads = openblas_get_num_threads();
    for (int n = 1; n < threads && n <= MOST_HELPERS; n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, help, NULL) == 0) pthread_detach(thread);
    }
}

static void share(const product *p) {
    pthread_mutex_lock(&shared.lock);
    shared.p = *p;
    atomic_store(&shared.next, 0);
    shared.open = true;
    atomic_fetch_add(&shared.rounds, 1);
    if (shared.sleeping) pthread_cond_broadcast(&shared.opened);
    pthread_mutex_unlock(&shared.lock);
    take_pieces();
    pthread_mutex_lock(&shared.lock);
    shared.open = false;
    pthread_mutex_unlock(&shared.lock);
    while (atomic_load(&shared.inside)) __builtin_ia32_pause();
}

bool few_rows(bool transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float *c, int ldc) {
    static pthread_once_t started = PTHREAD_ONCE_INIT;
    static pthread_mutex_t sharing = PTHREAD_MUTEX_INITIALIZER;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    if (!transposed && n % LANES != 0) return false;
    product p = {transposed, m, n, k, lda, ldb, ldc, a, b, c};
    /* Of two threads that multiply at once, the second does its product alone. */
    if ((size_t)n * k < WORTH_SHARING || pthread_mutex_trylock(&sharing) != 0) {
        columns_of(&p, 0, n);
        return true;
    }
    pthread_once(&started, start_helpers);
    share(&p);
    pthread_mutex_unlock(&sharing);
    return true;
}

#else

bool few_rows(bool transposed, int m, int n, int k, const float *a, int lda, const float *b,
              int ldb, float *c, int ldc) {
    (void)transposed, (void)m, (void)n, (void)k, (void)a, (void)lda, (void)b, (void)ldb;
    (void)c, (void)ldc;
    return false;
}

#endif
