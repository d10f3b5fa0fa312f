// batch_norm_act: y = σ((x − mean)·scale + shift) with the mean and the variance of the batch, and its gradient.
//
// 1. Statistics: the mean of each piece, and the squares of the deviations from it, while the piece is in the cache.
// 2. Apply: y.
// Backward computes σ' again from x, so that nothing but x is kept:
// 3. Sums: Σ g and Σ g·(x − mean) of each piece, where g = grad·σ'.
// 4. Backward: the gradient of x.
// The host adds up the pieces in a fixed order.
#include "cpu/kernels/activations.h"
#include "cpu/kernels/lanes.h"

namespace equifast::cpu::EQUIFAST_ISA {
namespace {

// What normalizes, for each lane: u = (x − mean)·scale + shift.
template <class A>
struct Maps {
  Lanes<A> mean, scale, shift;

  explicit Maps(const BatchNormArgs& a) : mean(a), scale(a), shift(a) {}
  void repeat(const Span& s, const BatchNormArgs& a) {
    mean.repeat(s, a.mean);
    scale.repeat(s, a.scale);
    shift.repeat(s, a.shift);
  }
};

// The loops over a run. They are functions of their own so that the compiler knows that no two pointers meet.

template <class A>
void add(const A* __restrict x, A* __restrict sum, int64_t n) {
  for (int64_t k = 0; k < n; ++k) sum[k] += x[k];
}

template <class A>
void add_squares(const A* __restrict x, const A* __restrict center, A* __restrict sum, A* __restrict square,
                 int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const A deviation = x[k] - center[k];
    sum[k] += deviation;
    square[k] += deviation * deviation;
  }
}

template <NormActivation kActivation, class A>
void apply(const A* __restrict x, const A* __restrict mean, const A* __restrict scale, const A* __restrict shift,
           A* __restrict y, int64_t n) {
  for (int64_t k = 0; k < n; ++k) y[k] = activated<kActivation>((x[k] - mean[k]) * scale[k] + shift[k]);
}

template <NormActivation kActivation, class A>
void add_products(const A* __restrict x, const A* __restrict grad, const A* __restrict mean, const A* __restrict scale,
                  const A* __restrict shift, A* __restrict sum, A* __restrict product, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const A deviation = x[k] - mean[k];
    const A g = grad[k] * slope<kActivation>(deviation * scale[k] + shift[k]);
    sum[k] += g;
    product[k] += g * deviation;
  }
}

template <NormActivation kActivation, class A>
void differentiate(const A* __restrict x, const A* __restrict grad, const A* __restrict mean, const A* __restrict scale,
                   const A* __restrict shift, const A* __restrict level, const A* __restrict tilt, A* __restrict to,
                   int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const A deviation = x[k] - mean[k];
    const A g = grad[k] * slope<kActivation>(deviation * scale[k] + shift[k]);
    to[k] = (scale[k] * g - deviation * tilt[k]) - level[k];
  }
}

}  // namespace

// A task is a piece. Deviations are taken from `center`, which is near the mean, so that their squares are small.
void batch_norm_act_statistics(const BatchNormArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Run<T> run(a);
    Lanes<A> sum(a), square(a), centers(a);
    Buffer<A> center(a.C);
    for (int64_t piece = begin; piece < end; ++piece)
      each_span(a, piece, [&](const Span& s) {
        sum.clear(s);
        each_run(s, [&](int64_t i, int64_t n) { add(run.read(a.x, i, n), sum.data(), n); });
        sum.fold(s);
        for (int64_t c = 0; c < s.channels; ++c) center[s.first + c] = sum.data()[c] / static_cast<A>(s.count);

        centers.repeat(s, center.data());
        sum.clear(s);
        square.clear(s);
        each_run(s, [&](int64_t i, int64_t n) {
          add_squares(run.read(a.x, i, n), centers.data(), sum.data(), square.data(), n);
        });
        sum.fold(s);
        square.fold(s);
        for (int64_t c = 0; c < s.channels; ++c) {
          const double rest = sum.data()[c], middle = center[s.first + c], count = static_cast<double>(s.count);
          const int64_t to = piece * a.C + s.first + c;
          a.first[to] = std::isfinite(middle) ? middle + rest / count : middle;
          a.second[to] = square.data()[c] - rest * rest / count;
        }
      });
  });
}

// A task is a piece.
void batch_norm_act(const BatchNormArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Run<T> run(a), results(a);
    Maps<A> m(a);
    for (int64_t piece = begin; piece < end; ++piece)
      each_span(a, piece, [&](const Span& s) {
        m.repeat(s, a);
        each_run(s, [&](int64_t i, int64_t n) {
          const A* x = run.read(a.x, i, n);
          results.write(a.out, i, n, [&](A* y) {
            visit_activation(a.activation, [&]<NormActivation kActivation>() {
              apply<kActivation>(x, m.mean.data(), m.scale.data(), m.shift.data(), y, n);
            });
          });
        });
      });
  });
}

// A task is a piece.
void batch_norm_act_sums(const BatchNormArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Run<T> run(a), grads(a);
    Maps<A> m(a);
    Lanes<A> sum(a), product(a);
    for (int64_t piece = begin; piece < end; ++piece)
      each_span(a, piece, [&](const Span& s) {
        m.repeat(s, a);
        sum.clear(s);
        product.clear(s);
        each_run(s, [&](int64_t i, int64_t n) {
          const A *x = run.read(a.x, i, n), *grad = grads.read(a.grad, i, n);
          visit_activation(a.activation, [&]<NormActivation kActivation>() {
            add_products<kActivation>(x, grad, m.mean.data(), m.scale.data(), m.shift.data(), sum.data(),
                                      product.data(), n);
          });
        });
        sum.fold(s);
        product.fold(s);
        for (int64_t c = 0; c < s.channels; ++c) {
          a.first[piece * a.C + s.first + c] = sum.data()[c];
          a.second[piece * a.C + s.first + c] = product.data()[c];
        }
      });
  });
}

// A task is a piece. level and tilt are the parts of the gradient that go through the mean and through the variance.
void batch_norm_act_backward(const BatchNormArgs& a, int64_t begin, int64_t end) {
  visit(a.dtype, [&]<class T>(T) {
    using A = Acc<T>;
    Run<T> run(a), grads(a), results(a);
    Maps<A> m(a);
    Lanes<A> level(a), tilt(a);
    for (int64_t piece = begin; piece < end; ++piece)
      each_span(a, piece, [&](const Span& s) {
        m.repeat(s, a);
        level.repeat(s, a.level);
        tilt.repeat(s, a.tilt);
        each_run(s, [&](int64_t i, int64_t n) {
          const A *x = run.read(a.x, i, n), *grad = grads.read(a.grad, i, n);
          results.write(a.out, i, n, [&](A* to) {
            visit_activation(a.activation, [&]<NormActivation kActivation>() {
              differentiate<kActivation>(x, grad, m.mean.data(), m.scale.data(), m.shift.data(), level.data(),
                                         tilt.data(), to, n);
            });
          });
        });
      });
  });
}

}  // namespace equifast::cpu::EQUIFAST_ISA
