// Exact execution in C: the operations of docs/exact.md, for any compiler that keeps IEEE 754 (no contraction of
// a * b + c, no reassociation). Compiled for the machine at hand by native.py, and used only where it reproduces the
// golden vectors. Threads divide rows, columns or heads; no sum is shared between them.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

typedef int64_t N;
#define INLINE static inline __attribute__((always_inline))
#define BLOCK 512 // columns of a left operand that share slices
#define LOSS_BLOCK 128 // the same of the gradient of logits, a few large numbers among many small ones
#define LANES 16   // columns of a packed right operand
#define WIDE 2     // packed columns in a panel
#define PANEL (LANES * WIDE)
#define TALL 6     // rows of a tile
#define MIN(a, b) ((a) < (b) ? (a) : (b))

void pf_start(int threads) {
#if defined(__GLIBC__)
  // Freed arrays are taken again instead of being mapped and zeroed anew: half of a step's time otherwise.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 2);
#endif
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
}

// ---------------------------------------------------------------------------------------------------- numbers

INLINE uint32_t bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
INLINE float from_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
INLINE float pow2(int e) { return from_bits((uint32_t)(e + 127) << 23); }

INLINE float exp_(float x) {
  float t = x * 1.4426950408889634f;
  t = t < -126.0f ? -126.0f : t;
  t = t > 126.0f ? 126.0f : t;
  float k = rintf(t), f = t - k;
  float p = (float)1.5403530393381608e-4;
  p = p * f; p = p + (float)1.3333558146428443e-3;
  p = p * f; p = p + (float)9.618129107628477e-3;
  p = p * f; p = p + (float)5.550410866482158e-2;
  p = p * f; p = p + (float)0.24022650695910072;
  p = p * f; p = p + (float)0.6931471805599453;
  p = p * f; p = p + 1.0f;
  return p * pow2((int)(k > -126.0f ? k : -126.0f)); // a NaN has no integer; p is one
}

static float log_(float x) {
  if (x != x) return x;
  uint32_t u = bits(x);
  int k = (int)(u >> 23) - 127;
  float m = from_bits((u & 0x7fffff) | 0x3f800000);
  if (m > 1.41421356f) { m = m * 0.5f; k = k + 1; }
  float z = (m - 1.0f) / (m + 1.0f), w = z * z;
  float p = (float)(1.0 / 9);
  p = p * w; p = p + (float)(1.0 / 7);
  p = p * w; p = p + (float)(1.0 / 5);
  p = p * w; p = p + (float)(1.0 / 3);
  p = p * w; p = p + 1.0f;
  float a = (z * 2.0f) * p, b = (float)k * 0.6931471805599453f;
  return a + b;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }
INLINE float tanh_(float x) { return 1.0f - 2.0f / (exp_(x * 2.0f) + 1.0f); }
INLINE float erf_(float x) {
  float a = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * a);
  float p = 1.061405429f;
  p = p * t; p = p + -1.453152027f;
  p = p * t; p = p + 1.421413741f;
  p = p * t; p = p + -0.284496736f;
  p = p * t; p = p + 0.254829592f;
  float r = 1.0f - (p * t) * exp_(-(a * a));
  return x < 0.0f ? -r : r;
}
enum { SILU, GELU, GELU_TANH, RELU };
INLINE float inner(float x) { float cube = x * x * x; return (x + cube * 0.044715f) * 0.79788456f; }
INLINE float act(float x, int kind) {
  if (kind == SILU) return x * sigmoid(x);
  if (kind == GELU) return (x * 0.5f) * (1.0f + erf_(x * 0.70710678f));
  if (kind == GELU_TANH) return (x * 0.5f) * (1.0f + tanh_(inner(x)));
  return x <= 0.0f ? 0.0f : x;
}
INLINE float slope(float x, int kind) {
  if (kind == SILU) { float s = sigmoid(x); return s * (1.0f + x * (1.0f - s)); }
  if (kind == GELU) {
    float left = (1.0f + erf_(x * 0.70710678f)) * 0.5f;
    return left + x * (exp_((x * x) * -0.5f) * 0.3989423f);
  }
  if (kind == GELU_TANH) {
    float u = tanh_(inner(x));
    float right = ((x * 0.5f) * (1.0f - u * u)) * ((1.0f + (x * x) * 0.134145f) * 0.79788456f);
    return (1.0f + u) * 0.5f + right;
  }
  return x <= 0.0f ? 0.0f : x != x ? x : 1.0f;
}

static N padded(N n) { N size = 1; while (size < n) size *= 2; return size; }

// The sum of buffer[0 .. n), which has room for padded(n) numbers; it is overwritten.
static float tree(float *buffer, N n) {
  N size = padded(n);
  for (N i = n; i < size; i++) buffer[i] = 0.0f;
  while (size > 1) {
    size /= 2;
    for (N i = 0; i < size; i++) buffer[i] = buffer[i] + buffer[i + size];
  }
  return buffer[0] + 0.0f;
}

#define OUT_OF_MEMORY 77 // how the process ends then; executor.py knows it

// Memory for `count` things of `size` bytes, never none: without it there is no result to go on to.
static void *take(N count, N size) {
  void *found = count >= 0 && count < INT64_MAX / size - 64 ? malloc((size_t)(count * size) + 64) : NULL;
  if (!found) {
    static const char words[] = "exact execution: out of memory\n";
    ssize_t written = write(2, words, sizeof words - 1);
    (void)written;
    _exit(OUT_OF_MEMORY);
  }
  return found;
}
static float *floats(N count) { return take(count, sizeof(float)); }

// ---------------------------------------------------------------------------------------------------- slices

// A left operand: rows of `kp` bytes (columns, rounded up to 4); for each row and block the scale and, because right
// operands are stored with 64 added, 64 times the sum of hi and of hi + lo.
typedef struct { int8_t *hi, *lo; float *scale; int32_t *sums; N rows, cols, kp, block, blocks; } Sliced;

static Sliced new_sliced(N rows, N cols, N block) {
  Sliced s = {0};
  s.rows = rows; s.cols = cols; s.kp = (cols + 3) / 4 * 4;
  s.block = block; s.blocks = (cols + block - 1) / block;
  s.hi = take(rows * s.kp, 1); s.lo = take(rows * s.kp, 1);
  s.scale = floats(rows * s.blocks); s.sums = take(2 * rows * s.blocks, 4);
  return s;
}
static void free_sliced(Sliced s) { free(s.hi); free(s.lo); free(s.scale); free(s.sums); }

INLINE uint32_t largest(const float *x, N n) {
  uint32_t m = 0x0d800000; // 2^-100
  for (N k = 0; k < n; k++) { uint32_t u = bits(x[k]) & 0x7fffffff; m = u > m ? u : m; }
  return m;
}

// Slices of x[0 .. n); the scale is returned, the sums of hi and lo go to `sums`.
INLINE float slice_run(const float *x, N n, int8_t *hi, int8_t *lo, int32_t *sums) {
  uint32_t m = largest(x, n);
  int e = (int)(m >> 23) - 126;
  float up = pow2(6 - e);
  int32_t high = 0, low = 0;
  if (m >= 0x7f800000) {
    memset(hi, 0, (size_t)n); memset(lo, 0, (size_t)n);
    sums[0] = sums[1] = 0;
    return from_bits(0x7fc00000);
  }
  for (N k = 0; k < n; k++) {
    float y = x[k] * up, h = rintf(y);
    h = h > 63.0f ? 63.0f : h; h = h < -63.0f ? -63.0f : h;
    float l = rintf((y - h) * 64.0f);
    l = l > 64.0f ? 64.0f : l; l = l < -64.0f ? -64.0f : l;
    int32_t a = (int32_t)h, b = (int32_t)l;
    hi[k] = (int8_t)a; lo[k] = (int8_t)b;
    high += a; low += b;
  }
  sums[0] = high; sums[1] = low;
  return pow2(e - 6);
}

static void slice_ready_row(const float *x, Sliced *s, N row) {
  int8_t *hi = s->hi + row * s->kp, *lo = s->lo + row * s->kp;
  for (N b = 0; b < s->blocks; b++) {
    N first = b * s->block, n = MIN(s->cols - first, s->block);
    int32_t sums[2];
    s->scale[row * s->blocks + b] = slice_run(x + first, n, hi + first, lo + first, sums);
    s->sums[2 * (row * s->blocks + b)] = 64 * sums[0];
    s->sums[2 * (row * s->blocks + b) + 1] = 64 * (sums[0] + sums[1]);
  }
  for (N k = s->cols; k < s->kp; k++) hi[k] = lo[k] = 0;
}

// One row of a left operand. `scratch` holds `cols` numbers where there is a factor for each column.
static void slice_row(const float *x, const float *fold, float *scratch, Sliced *s, N row) {
  if (fold) { for (N k = 0; k < s->cols; k++) scratch[k] = x[k] * fold[k]; x = scratch; }
  slice_ready_row(x, s, row);
}

static void slice_rows(const float *x, const float *fold, Sliced *s) {
#pragma omp parallel
  {
    float *scratch = fold ? floats(s->cols) : NULL;
#pragma omp for schedule(static)
    for (N row = 0; row < s->rows; row++) slice_row(x + row * s->cols, fold, scratch, s, row);
    free(scratch);
  }
}

// A right operand (n outputs, k summed over): [output / 16][k / 4][16][4] bytes, 64 added to each integer.
typedef struct { uint8_t *hi, *lo; N n, k, k4; } Packed;

static N packed_bytes(N n, N k) { return (n + PANEL - 1) / PANEL * PANEL * ((k + 3) / 4 * 4); }

static Packed new_packed(N n, N k, int two) {
  Packed p = {0};
  p.n = n; p.k = k; p.k4 = (k + 3) / 4;
  p.hi = take(packed_bytes(n, k), 1);
  p.lo = two ? take(packed_bytes(n, k), 1) : NULL;
  return p;
}
static void free_packed(Packed p) { free(p.hi); free(p.lo); }

// Packs one panel of 16 outputs; `source[output * os + k * ks]`.
static void pack_lanes(const int8_t *source, N os, N ks, N n, N k, N first, uint8_t *out) {
  N k4 = (k + 3) / 4;
  for (N q = 0; q < k4; q++)
    for (N j = 0; j < LANES; j++)
      for (N i = 0; i < 4; i++) {
        N o = first + j, at = 4 * q + i;
        out[(q * LANES + j) * 4 + i] = o < n && at < k ? (uint8_t)(source[o * os + at * ks] + 64) : 64;
      }
}

static void pack(const int8_t *hi, const int8_t *lo, N os, N ks, Packed *p, int parallel) {
  N lanes = (p->n + PANEL - 1) / PANEL * WIDE;
#pragma omp parallel for schedule(static) if (parallel)
  for (N l = 0; l < lanes; l++) {
    pack_lanes(hi, os, ks, p->n, p->k, l * LANES, p->hi + l * LANES * p->k4 * 4);
    if (p->lo) pack_lanes(lo, os, ks, p->n, p->k, l * LANES, p->lo + l * LANES * p->k4 * 4);
  }
}

// ---------------------------------------------------------------------------------------------------- products

// The integer products of 6 rows with 32 packed columns over `q` groups of four, each with 64 times the row's sum.
#if defined(__AVX512VNNI__)
INLINE void tile(const int8_t *const *xh, const int8_t *const *xl, N q, const uint8_t *wh, const uint8_t *wl, N stride,
                 const int two, int32_t *hh, int32_t *cc) {
  __m512i h[TALL][WIDE], c[TALL][WIDE];
  for (int r = 0; r < TALL; r++) for (int v = 0; v < WIDE; v++) h[r][v] = c[r][v] = _mm512_setzero_si512();
  for (N k = 0; k < q; k++) {
    __m512i a[WIDE], b[WIDE];
    for (int v = 0; v < WIDE; v++) {
      a[v] = _mm512_loadu_si512(wh + v * stride + k * 64);
      if (two) b[v] = _mm512_loadu_si512(wl + v * stride + k * 64);
    }
#pragma GCC unroll 6
    for (int r = 0; r < TALL; r++) {
      int32_t ih, il;
      memcpy(&ih, xh[r] + 4 * k, 4); memcpy(&il, xl[r] + 4 * k, 4);
      __m512i x = _mm512_set1_epi32(ih), y = _mm512_set1_epi32(il);
      for (int v = 0; v < WIDE; v++) {
        h[r][v] = _mm512_dpbusd_epi32(h[r][v], a[v], x);
        c[r][v] = _mm512_dpbusd_epi32(c[r][v], a[v], y);
        if (two) c[r][v] = _mm512_dpbusd_epi32(c[r][v], b[v], x);
      }
    }
  }
  for (int r = 0; r < TALL; r++) for (int v = 0; v < WIDE; v++) {
    _mm512_storeu_si512(hh + r * PANEL + v * LANES, h[r][v]);
    _mm512_storeu_si512(cc + r * PANEL + v * LANES, c[r][v]);
  }
}
#elif defined(__AVX2__)
INLINE __m256i dot(__m256i sum, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sum, w, x);
#else
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
#endif
}
INLINE void tile(const int8_t *const *xh, const int8_t *const *xl, N q, const uint8_t *wh, const uint8_t *wl, N stride,
                 const int two, int32_t *hh, int32_t *cc) {
  for (int r = 0; r < TALL; r += 2) for (int v = 0; v < WIDE; v++) {
    __m256i h[2][2], c[2][2];
    for (int i = 0; i < 2; i++) for (int s = 0; s < 2; s++) h[i][s] = c[i][s] = _mm256_setzero_si256();
    for (N k = 0; k < q; k++) {
      __m256i a[2], b[2];
      for (int s = 0; s < 2; s++) {
        a[s] = _mm256_loadu_si256((const __m256i *)(wh + v * stride + k * 64 + 32 * s));
        if (two) b[s] = _mm256_loadu_si256((const __m256i *)(wl + v * stride + k * 64 + 32 * s));
      }
      for (int i = 0; i < 2; i++) {
        int32_t ih, il;
        memcpy(&ih, xh[r + i] + 4 * k, 4); memcpy(&il, xl[r + i] + 4 * k, 4);
        __m256i x = _mm256_set1_epi32(ih), y = _mm256_set1_epi32(il);
        for (int s = 0; s < 2; s++) {
          h[i][s] = dot(h[i][s], a[s], x);
          c[i][s] = dot(c[i][s], a[s], y);
          if (two) c[i][s] = dot(c[i][s], b[s], x);
        }
      }
    }
    for (int i = 0; i < 2; i++) for (int s = 0; s < 2; s++) {
      _mm256_storeu_si256((__m256i *)(hh + (r + i) * PANEL + v * LANES + 8 * s), h[i][s]);
      _mm256_storeu_si256((__m256i *)(cc + (r + i) * PANEL + v * LANES + 8 * s), c[i][s]);
    }
  }
}
#else
INLINE void tile(const int8_t *const *xh, const int8_t *const *xl, N q, const uint8_t *wh, const uint8_t *wl, N stride,
                 const int two, int32_t *hh, int32_t *cc) {
  memset(hh, 0, TALL * PANEL * 4); memset(cc, 0, TALL * PANEL * 4);
  for (int r = 0; r < TALL; r++) for (int v = 0; v < WIDE; v++) {
    int32_t *h = hh + r * PANEL + v * LANES, *c = cc + r * PANEL + v * LANES;
    for (N k = 0; k < q; k++) {
      const uint8_t *a = wh + v * stride + k * 64, *b = two ? wl + v * stride + k * 64 : a;
      const int8_t *x = xh[r] + 4 * k, *y = xl[r] + 4 * k;
      for (int j = 0; j < LANES; j++) for (int i = 0; i < 4; i++) {
        h[j] += x[i] * a[4 * j + i];
        c[j] += y[i] * a[4 * j + i] + (two ? x[i] * b[4 * j + i] : 0);
      }
    }
  }
}
#endif

// out[row, col] for the panels [p0, p1) and all rows: product(X, W) with the factors t, or without one.
static void multiply(const Sliced *x, const Packed *w, const float *t, const float *bias, float *out, N ldo,
                     N p0, N p1, N r0, N r1) {
  N stride = w->k4 * 64;
  for (N p = p0; p < p1; p++) {
    const uint8_t *wh = w->hi + p * WIDE * stride, *wl = w->lo ? w->lo + p * WIDE * stride : NULL;
    N cols = MIN(w->n - p * PANEL, PANEL);
    for (N row = r0; row < r1; row += TALL) {
      float y[TALL][PANEL] = {{0.0f}}; // stays so where nothing is summed over
      int32_t hh[TALL * PANEL], cc[TALL * PANEL];
      for (N b = 0; b < x->blocks; b++) {
        N q0 = b * (x->block / 4), q = MIN(w->k4 - q0, x->block / 4);
        const int8_t *xh[TALL], *xl[TALL];
        for (int r = 0; r < TALL; r++) {
          N at = MIN(row + r, r1 - 1) * x->kp + 4 * q0;
          xh[r] = x->hi + at; xl[r] = x->lo + at;
        }
        if (wl) tile(xh, xl, q, wh + q0 * 64, wl + q0 * 64, stride, 1, hh, cc);
        else tile(xh, xl, q, wh + q0 * 64, wh, stride, 0, hh, cc);
        for (int r = 0; r < TALL; r++) {
          N at = MIN(row + r, r1 - 1) * x->blocks + b;
          float s = x->scale[at] * 0.015625f;
          int32_t a = x->sums[2 * at], both = x->sums[2 * at + 1];
          if (!wl) both -= a; // without a low slice only lo was multiplied
          for (int j = 0; j < PANEL; j++) {
            float high = (float)(hh[r * PANEL + j] - a) * 64.0f, cross = (float)(cc[r * PANEL + j] - both);
            float part = (high + cross) * s;
            y[r][j] = b ? y[r][j] + part : part;
          }
        }
      }
      for (int r = 0; r < TALL && row + r < r1; r++) {
        float *o = out + (row + r) * ldo + p * PANEL;
        if (cols == PANEL && t && !bias) for (int j = 0; j < PANEL; j++) o[j] = y[r][j] * t[p * PANEL + j];
        else if (cols == PANEL && !t && !bias) for (int j = 0; j < PANEL; j++) o[j] = y[r][j];
        else for (int j = 0; j < cols; j++) {
          float z = t ? y[r][j] * t[p * PANEL + j] : y[r][j];
          o[j] = bias ? z + bias[p * PANEL + j] : z;
        }
      }
    }
  }
}

static void multiply_parallel(const Sliced *x, const Packed *w, const float *t, const float *bias, float *out, N ldo) {
  N panels = (w->n + PANEL - 1) / PANEL, chunk = 32 * TALL, chunks = (x->rows + chunk - 1) / chunk;
#pragma omp parallel for collapse(2) schedule(static)
  for (N p = 0; p < panels; p++)
    for (N c = 0; c < chunks; c++)
      multiply(x, w, t, bias, out, ldo, p, p + 1, c * chunk, MIN(x->rows, (c + 1) * chunk));
}

// ---------------------------------------------------------------------------------------------------- weights

// A frozen matrix (n, k): packed for both directions, with one scale a row of the matrix.
typedef struct { Packed forward, back; float *t; } Frozen;

static float slice_whole(const float *x, N k, int8_t *hi, int8_t *lo) {
  int32_t sums[2];
  return slice_run(x, k, hi, lo, sums); // a right operand is sliced over its whole row
}

static float slice_once(const float *x, N k, int8_t *hi) {
  uint32_t m = largest(x, k);
  if (m >= 0x7f800000) { memset(hi, 0, (size_t)k); return from_bits(0x7fc00000); }
  float t = from_bits(m) / 63.0f;
  for (N i = 0; i < k; i++) {
    float h = rintf(x[i] / t);
    h = h > 63.0f ? 63.0f : h; h = h < -63.0f ? -63.0f : h;
    hi[i] = (int8_t)(int32_t)h;
  }
  return t;
}

void *pf_freeze(const float *w, N n, N k, int two) {
  Frozen *f = take(1, sizeof *f);
  int8_t *hi = take(n * k, 1), *lo = two ? take(n * k, 1) : NULL;
  f->t = floats(n + PANEL);
#pragma omp parallel for schedule(static)
  for (N row = 0; row < n; row++)
    f->t[row] = two ? slice_whole(w + row * k, k, hi + row * k, lo + row * k) : slice_once(w + row * k, k, hi + row * k);
  f->forward = new_packed(n, k, two); f->back = new_packed(k, n, two);
  pack(hi, lo, k, 1, &f->forward, 1);
  pack(hi, lo, 1, k, &f->back, 1);
  free(hi); free(lo);
  return f;
}
void pf_release(void *frozen) {
  Frozen *f = frozen;
  free_packed(f->forward); free_packed(f->back); free(f->t); free(f);
}

void *pf_slice(const float *x, N rows, N cols) {
  Sliced *s = take(1, sizeof *s);
  *s = new_sliced(rows, cols, BLOCK);
  slice_rows(x, NULL, s);
  return s;
}
void pf_release_slices(void *sliced) { free_sliced(*(Sliced *)sliced); free(sliced); }

void pf_linear(const void *sliced, const void *frozen, const float *bias, float *out) {
  const Frozen *f = frozen;
  multiply_parallel(sliced, &f->forward, f->t, bias, out, f->forward.n);
}
void pf_linear_back(const float *g, N rows, const void *frozen, float *out) {
  const Frozen *f = frozen;
  Sliced s = new_sliced(rows, f->back.k, BLOCK);
  slice_rows(g, f->t, &s);
  multiply_parallel(&s, &f->back, NULL, NULL, out, f->back.n);
  free_sliced(s);
}

// Two operands that are not frozen, both of them row-major; serial, for use inside a thread.
// over_rows: x (m, j), y (j, k) to (m, k), else x (m, k), y (n, k) to (m, n). In the former a zero of x stays one
// whatever y holds: it is a pair of attention that is not visible.
static void product_serial(const float *x, N m, const float *y, N rows, N cols, N ldy, int over_rows, float *out) {
  int8_t *hi = take(rows * cols, 1), *lo = take(rows * cols, 1);
  float *t = floats(rows + PANEL);
  for (N r = 0; r < rows; r++) t[r] = slice_whole(y + r * ldy, cols, hi + r * cols, lo + r * cols);
  Packed p = over_rows ? new_packed(cols, rows, 1) : new_packed(rows, cols, 1);
  pack(hi, lo, over_rows ? 1 : cols, over_rows ? cols : 1, &p, 0);
  free(hi); free(lo);
  Sliced s = new_sliced(m, p.k, BLOCK);
  float *scratch = over_rows ? floats(p.k) : NULL;
  for (N r = 0; r < m; r++) {
    const float *row = x + r * p.k;
    if (over_rows) for (N k = 0; k < p.k; k++) scratch[k] = row[k] == 0.0f ? 0.0f : row[k] * t[k];
    slice_ready_row(over_rows ? scratch : row, &s, r);
  }
  multiply(&s, &p, over_rows ? NULL : t, NULL, out, p.n, 0, (p.n + PANEL - 1) / PANEL, 0, m);
  free(scratch); free_sliced(s); free_packed(p); free(t);
}

void pf_product(const float *x, N m, const float *y, N rows, N cols, int over_rows, float *out) {
  int8_t *hi = take(rows * cols, 1), *lo = take(rows * cols, 1);
  float *t = floats(rows + PANEL);
#pragma omp parallel for schedule(static)
  for (N r = 0; r < rows; r++) t[r] = slice_whole(y + r * cols, cols, hi + r * cols, lo + r * cols);
  Packed p = over_rows ? new_packed(cols, rows, 1) : new_packed(rows, cols, 1);
  pack(hi, lo, over_rows ? 1 : cols, over_rows ? cols : 1, &p, 1);
  free(hi); free(lo);
  Sliced s = new_sliced(m, p.k, BLOCK);
  slice_rows(x, over_rows ? t : NULL, &s);
  multiply_parallel(&s, &p, over_rows ? NULL : t, NULL, out, p.n);
  free_sliced(s); free_packed(p); free(t);
}

static void transpose(const float *x, N rows, N cols, N ldx, float *out) {
  for (N r = 0; r < rows; r++) for (N c = 0; c < cols; c++) out[c * rows + r] = x[r * ldx + c];
}

// Sum over the rows of each sequence: x (R, m), y (R, k) to (m, k); `added` to what is in `out` already.
void pf_sum_rows(const float *x, N m, const float *y, N k, const N *lengths, N count, int added, float *out) {
  float *one = floats(m * k);
  N row = 0;
  if (!count && !added) memset(out, 0, (size_t)(m * k) * 4);
  for (N i = 0; i < count; i++) {
    float *turned = floats(m * lengths[i]);
    transpose(x + row * m, lengths[i], m, m, turned);
    pf_product(turned, m, y + row * k, lengths[i], k, 1, i || added ? one : out);
    free(turned);
    if (i || added) for (N j = 0; j < m * k; j++) out[j] = out[j] + one[j];
    row += lengths[i];
  }
  free(one);
}

// ---------------------------------------------------------------------------------------------------- rows

void pf_add(const float *x, const float *y, N rows, N cols, int bias, float *out) {
#pragma omp parallel for schedule(static)
  for (N r = 0; r < rows; r++)
    for (N c = 0; c < cols; c++) out[r * cols + c] = x[r * cols + c] + y[bias ? c : r * cols + c];
}
void pf_multiply(const float *x, float factor, N count, float *out) {
  for (N i = 0; i < count; i++) out[i] = x[i] * factor;
}

INLINE float rms(const float *x, N n, float part, float eps, float *buffer) {
  for (N i = 0; i < n; i++) buffer[i] = x[i] * x[i];
  float mean = tree(buffer, n) * part;
  return 1.0f / sqrtf(mean + eps);
}

void pf_rms_norm(const float *x, const float *w, N rows, N n, float part, float eps, float *out) {
#pragma omp parallel
  {
    float *buffer = floats(padded(n));
#pragma omp for schedule(static)
    for (N row = 0; row < rows; row++) {
      const float *a = x + row * n;
      float r = rms(a, n, part, eps, buffer), *o = out + row * n;
      for (N i = 0; i < n; i++) o[i] = (a[i] * r) * w[i];
    }
    free(buffer);
  }
}

void pf_rms_norm_back(const float *g, const float *x, const float *w, N rows, N n, float part, float eps, float *out) {
#pragma omp parallel
  {
    float *buffer = floats(padded(n));
#pragma omp for schedule(static)
    for (N row = 0; row < rows; row++) {
      const float *a = x + row * n, *b = g + row * n;
      float r = rms(a, n, part, eps, buffer), *o = out + row * n;
      for (N i = 0; i < n; i++) buffer[i] = (b[i] * w[i]) * a[i];
      float c = tree(buffer, n) * part, d = ((r * r) * r) * c;
      for (N i = 0; i < n; i++) { float left = (b[i] * w[i]) * r; o[i] = left - a[i] * d; }
    }
    free(buffer);
  }
}

void pf_layer_norm(const float *x, const float *w, const float *b, N rows, N n, float part, float eps, float *out) {
#pragma omp parallel
  {
    float *buffer = floats(padded(n)), *d = floats(n);
#pragma omp for schedule(static)
    for (N row = 0; row < rows; row++) {
      const float *a = x + row * n;
      memcpy(buffer, a, (size_t)n * 4);
      float mean = tree(buffer, n) * part, *o = out + row * n;
      for (N i = 0; i < n; i++) d[i] = a[i] - mean;
      float r = rms(d, n, part, eps, buffer);
      for (N i = 0; i < n; i++) { float z = (d[i] * r) * w[i]; o[i] = z + b[i]; }
    }
    free(buffer); free(d);
  }
}

void pf_centre(const float *x, N rows, N n, float part, float *out) {
#pragma omp parallel
  {
    float *buffer = floats(padded(n));
#pragma omp for schedule(static)
    for (N row = 0; row < rows; row++) {
      const float *a = x + row * n;
      memcpy(buffer, a, (size_t)n * 4);
      float mean = tree(buffer, n) * part, *o = out + row * n;
      for (N i = 0; i < n; i++) o[i] = a[i] - mean;
    }
    free(buffer);
  }
}

void pf_unit_length(const float *x, N rows, N n, float *out) {
  float *buffer = floats(padded(n));
  for (N row = 0; row < rows; row++) {
    const float *a = x + row * n;
    for (N i = 0; i < n; i++) buffer[i] = a[i] * a[i];
    float sum = tree(buffer, n), r = 1.0f / sqrtf(sum);
    int keep = sum < pow2(-100);
    for (N i = 0; i < n; i++) out[row * n + i] = keep ? a[i] : a[i] * r;
  }
  free(buffer);
}

void pf_pool_mean(const float *x, const N *lengths, N count, N n, const float *parts, float *out) {
  N row = 0;
  for (N s = 0; s < count; s++) {
    float *buffer = floats(padded(lengths[s]));
    for (N c = 0; c < n; c++) {
      for (N i = 0; i < lengths[s]; i++) buffer[i] = x[(row + i) * n + c];
      out[s * n + c] = tree(buffer, lengths[s]) * parts[s];
    }
    free(buffer);
    row += lengths[s];
  }
}

void pf_rotate(const float *x, const float *cos_, const float *sin_, N rows, N heads, N d, int back, float *out) {
  N half = d / 2;
#pragma omp parallel for schedule(static)
  for (N row = 0; row < rows; row++) {
    const float *c = cos_ + row * half, *s = sin_ + row * half;
    for (N h = 0; h < heads; h++) {
      const float *a = x + (row * heads + h) * d, *b = a + half;
      float *o = out + (row * heads + h) * d;
      for (N i = 0; i < half; i++) {
        float ac = a[i] * c[i], as = a[i] * s[i], bc = b[i] * c[i], bs = b[i] * s[i];
        o[i] = back ? ac + bs : ac - bs;
        o[half + i] = back ? bc - as : bc + as;
      }
    }
  }
}

// The loop once for each kind, so that the compiler can vectorise it.
#define EACH_KIND(...) switch (kind) { \
  case SILU: { enum { K = SILU }; __VA_ARGS__ } break; case GELU: { enum { K = GELU }; __VA_ARGS__ } break; \
  case GELU_TANH: { enum { K = GELU_TANH }; __VA_ARGS__ } break; default: { enum { K = RELU }; __VA_ARGS__ } break; }

void pf_activate(const float *x, N count, int kind, float *out) {
  EACH_KIND(_Pragma("omp parallel for schedule(static)") for (N i = 0; i < count; i++) out[i] = act(x[i], K);)
}
void pf_gated(const float *gate, const float *up, N count, int kind, float *out) {
  EACH_KIND(_Pragma("omp parallel for schedule(static)") for (N i = 0; i < count; i++) out[i] = act(gate[i], K) * up[i];)
}
void pf_gated_back(const float *g, const float *gate, const float *up, N count, int kind, float *dgate, float *dup) {
  EACH_KIND(_Pragma("omp parallel for schedule(static)") for (N i = 0; i < count; i++) {
    float x = gate[i], y = g[i];
    dup[i] = y * act(x, K);
    dgate[i] = (y * up[i]) * slope(x, K);
  })
}

// ---------------------------------------------------------------------------------------------------- attention

typedef struct { N t, T, d, window; int causal; float scale, cap, uncap; } Shape;

INLINE void visible(const Shape *s, N i, N *from, N *to) {
  N p = s->T - s->t + i;
  *to = s->causal ? p + 1 : s->T;
  *from = s->causal && s->window && p + 1 > s->window ? p + 1 - s->window : 0;
}

static void rows_of(const float *x, N rows, N heads, N head, N d, float *out) {
  for (N r = 0; r < rows; r++) memcpy(out + r * d, x + (r * heads + head) * d, (size_t)d * 4);
}

// P (t, T) of one head; `slopes`, where asked for, receives the soft cap's derivative.
static void probabilities(const float *q, const float *k, const Shape *s, float *P, float *slopes) {
  product_serial(q, s->t, k, s->T, s->d, s->d, 0, P);
  float *buffer = floats(padded(s->T));
  for (N i = 0; i < s->t; i++) {
    float *row = P + i * s->T;
    N from, to;
    visible(s, i, &from, &to);
    for (N j = 0; j < s->T; j++) row[j] = row[j] * s->scale;
    if (s->cap > 0.0f) for (N j = 0; j < s->T; j++) {
      float u = tanh_(row[j] * s->uncap);
      if (slopes) slopes[i * s->T + j] = 1.0f - u * u;
      row[j] = u * s->cap;
    }
    float m = row[from];
    for (N j = from; j < to; j++) m = row[j] > m ? row[j] : m;
    for (N j = 0; j < from; j++) row[j] = 0.0f;
    for (N j = from; j < to; j++) row[j] = exp_(row[j] - m);
    for (N j = to; j < s->T; j++) row[j] = 0.0f;
    memcpy(buffer, row, (size_t)s->T * 4);
    float r = 1.0f / tree(buffer, s->T);
    for (N j = from; j < to; j++) row[j] = row[j] * r;
  }
  free(buffer);
}

#define QUERIES 256 // rows of P that are held at once

void pf_attention(const float *q, const float *k, const float *v, N heads, N kv, N d, const N *queries, const N *keys,
                  N count, int causal, N window, float scale, float cap, float uncap, float *out) {
  N tasks = count * heads;
#pragma omp parallel for schedule(dynamic)
  for (N task = 0; task < tasks; task++) {
    N seq = task / heads, head = task % heads, shared = head / (heads / kv), qr = 0, kr = 0;
    for (N i = 0; i < seq; i++) { qr += queries[i]; kr += keys[i]; }
    N t = queries[seq], T = keys[seq];
    float *one = floats(MIN(t, QUERIES) * d), *K = floats(T * d), *V = floats(T * d), *P = floats(MIN(t, QUERIES) * T);
    float *o = floats(MIN(t, QUERIES) * d);
    rows_of(k + kr * kv * d, T, kv, shared, d, K);
    rows_of(v + kr * kv * d, T, kv, shared, d, V);
    for (N first = 0; first < t; first += QUERIES) {
      N some = MIN(t - first, QUERIES);
      rows_of(q + (qr + first) * heads * d, some, heads, head, d, one);
      // The last query of this run stands at key T - t + first + some - 1.
      N upto = causal ? T - t + first + some : T;
      Shape s = {some, upto, d, window, causal, scale, cap, uncap};
      probabilities(one, K, &s, P, NULL);
      product_serial(P, some, V, upto, d, d, 1, o);
      for (N i = 0; i < some; i++) memcpy(out + ((qr + first + i) * heads + head) * d, o + i * d, (size_t)d * 4);
    }
    free(one); free(K); free(V); free(P); free(o);
  }
}

void pf_attention_back(const float *g, const float *q, const float *k, const float *v, N heads, N kv, N d,
                       const N *queries, const N *keys, N count, int causal, N window, float scale, float cap,
                       float uncap, float *dq, float *dk, float *dv) {
  N tasks = count * kv, group = heads / kv;
#pragma omp parallel for schedule(dynamic)
  for (N task = 0; task < tasks; task++) {
    N seq = task / kv, shared = task % kv, qr = 0, kr = 0;
    for (N i = 0; i < seq; i++) { qr += queries[i]; kr += keys[i]; }
    N t = queries[seq], T = keys[seq];
    Shape s = {t, T, d, window, causal, scale, cap, uncap};
    float *Q = floats(t * d), *G = floats(t * d), *K = floats(T * d), *V = floats(T * d), *one = floats((t > T ? t : T) * d);
    float *P = floats(t * T), *dP = floats(t * T), *turned = floats(t * T), *slopes = cap > 0.0f ? floats(t * T) : NULL;
    float *buffer = floats(padded(T));
    rows_of(k + kr * kv * d, T, kv, shared, d, K);
    rows_of(v + kr * kv * d, T, kv, shared, d, V);
    for (N member = 0; member < group; member++) {
      N head = shared * group + member;
      rows_of(q + qr * heads * d, t, heads, head, d, Q);
      rows_of(g + qr * heads * d, t, heads, head, d, G);
      probabilities(Q, K, &s, P, slopes);
      product_serial(G, t, V, T, d, d, 0, dP);
      transpose(P, t, T, T, turned);
      product_serial(turned, T, G, t, d, d, 1, one);
      for (N j = 0; j < T; j++) for (N c = 0; c < d; c++) {
        float *o = dv + ((kr + j) * kv + shared) * d + c;
        *o = member ? *o + one[j * d + c] : one[j * d + c];
      }
      for (N i = 0; i < t; i++) {
        float *row = dP + i * T, *p = P + i * T;
        N from, to;
        visible(&s, i, &from, &to);
        for (N j = 0; j < from; j++) row[j] = 0.0f;
        for (N j = to; j < T; j++) row[j] = 0.0f;
        for (N j = 0; j < T; j++) buffer[j] = p[j] * row[j];
        float D = tree(buffer, T);
        for (N j = from; j < to; j++) row[j] = p[j] * (row[j] - D);
        if (slopes) for (N j = from; j < to; j++) row[j] = row[j] * slopes[i * T + j];
        for (N j = from; j < to; j++) row[j] = row[j] * scale;
      }
      product_serial(dP, t, K, T, d, d, 1, one);
      for (N i = 0; i < t; i++) memcpy(dq + ((qr + i) * heads + head) * d, one + i * d, (size_t)d * 4);
      transpose(dP, t, T, T, turned);
      product_serial(turned, T, Q, t, d, d, 1, one);
      for (N j = 0; j < T; j++) for (N c = 0; c < d; c++) {
        float *o = dk + ((kr + j) * kv + shared) * d + c;
        *o = member ? *o + one[j * d + c] : one[j * d + c];
      }
    }
    free(Q); free(G); free(K); free(V); free(one); free(P); free(dP); free(turned); free(slopes); free(buffer);
  }
}

// ---------------------------------------------------------------------------------------------------- loss

#define LOSS_ROWS 96

// nll (R,) and, where `out` is given, the gradient (R, n) of the hidden states.
void pf_losses(const float *x, N rows, N n, const void *frozen, const N *targets, float multiplier, float cap,
               float uncap, float scale, float *nll, float *out) {
  const Frozen *f = frozen;
  N vocabulary = f->forward.n;
  float *logits = floats(MIN(rows, LOSS_ROWS) * vocabulary);
  for (N first = 0; first < rows; first += LOSS_ROWS) {
    N some = MIN(rows - first, LOSS_ROWS);
    Sliced s = new_sliced(some, n, BLOCK), z = new_sliced(out ? some : 0, vocabulary, LOSS_BLOCK);
    slice_rows(x + first * n, NULL, &s);
    multiply_parallel(&s, &f->forward, f->t, NULL, logits, vocabulary);
#pragma omp parallel
    {
      float *buffer = floats(padded(vocabulary)), *slopes = cap > 0.0f ? floats(vocabulary) : NULL;
#pragma omp for schedule(static)
      for (N i = 0; i < some; i++) {
        float *row = logits + i * vocabulary;
        N target = targets[first + i];
        if (multiplier != 1.0f) for (N j = 0; j < vocabulary; j++) row[j] = row[j] * multiplier;
        if (slopes) for (N j = 0; j < vocabulary; j++) {
          float u = tanh_(row[j] * uncap);
          slopes[j] = 1.0f - u * u; row[j] = u * cap;
        }
        float m = row[0], wanted = row[target];
        for (N j = 0; j < vocabulary; j++) m = row[j] > m ? row[j] : m;
        for (N j = 0; j < vocabulary; j++) row[j] = exp_(row[j] - m);
        memcpy(buffer, row, (size_t)vocabulary * 4);
        float l = tree(buffer, vocabulary);
        nll[first + i] = (log_(l) + m) - wanted;
        if (!out) continue;
        float r = 1.0f / l;
        float own = (row[target] * r - 1.0f) * scale;
        for (N j = 0; j < vocabulary; j++) row[j] = (row[j] * r) * scale;
        row[target] = own;
        if (slopes) for (N j = 0; j < vocabulary; j++) row[j] = row[j] * slopes[j];
        if (multiplier != 1.0f) for (N j = 0; j < vocabulary; j++) row[j] = row[j] * multiplier;
        slice_row(row, f->t, buffer, &z, i);
      }
      free(buffer); free(slopes);
    }
    if (out) multiply_parallel(&z, &f->back, NULL, NULL, out + first * n, n);
    free_sliced(s); free_sliced(z);
  }
  free(logits);
}

// ---------------------------------------------------------------------------------------------------- optimiser

float pf_square_sum(const float *x, N count) {
  float *buffer = floats(padded(count));
  for (N i = 0; i < count; i++) buffer[i] = x[i] * x[i];
  float sum = tree(buffer, count);
  free(buffer);
  return sum;
}

// step: b1, b2, 1 - b1, 1 - b2, 1 - b2^n, lr / (1 - b1^n), 1 - lr * decay, eps
void pf_adamw(float *p, const float *g, float *m, float *v, N count, float factor, const float *step) {
  float b1 = step[0], b2 = step[1], r1 = step[2], r2 = step[3], c2 = step[4], rate = step[5], keep = step[6], eps = step[7];
#pragma omp parallel for schedule(static)
  for (N i = 0; i < count; i++) {
    float x = g[i] * factor;
    float first = m[i] * b1 + x * r1, second = v[i] * b2 + (x * r2) * x;
    float root = sqrtf(second / c2) + eps;
    float new = p[i] * keep - (first * rate) / root;
    m[i] = first + 0.0f; v[i] = second + 0.0f; p[i] = new + 0.0f;
  }
}

int pf_finite(const float *x, N count) {
  uint32_t m = 0;
  for (N i = 0; i < count; i++) { uint32_t u = bits(x[i]) & 0x7fffffff; m = u > m ? u : m; }
  return m < 0x7f800000;
}
