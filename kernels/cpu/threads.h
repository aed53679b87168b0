// One team of threads for all operators, whichever thread of MindSpore calls them.
//
// OpenMP keeps a team for every thread that ever called, and stops spinning at barriers as soon as all teams together have
// more threads than there are cores: a barrier then sleeps and wakes, which took longer than the work of a small layer.

#pragma once

#include <cstdint>

class Worker {
 public:
  Worker(int64_t index, int64_t count, float *scratch) : index(index), count(count), scratch(scratch) {}

  const int64_t index, count;
  float *const scratch;  // the floats that Parallel was asked for, of this thread alone, not initialised

  // Nobody goes on before all are here.
  void Barrier() const;

  // f(i) for i < n, in `count` ranges of neighbours, and a barrier.
  template <class F>
  void Static(int64_t n, const F &f) const {
    for (int64_t i = n * index / count; i < n * (index + 1) / count; ++i) f(i);
    Barrier();
  }

  // f(i) for i < n, each taken by whoever is free, and a barrier.
  template <class F>
  void Dynamic(int64_t n, const F &f) const {
    for (int64_t i = Next(); i < n; i = Next()) f(i);
    Barrier();
  }

 private:
  int64_t Next() const;  // 0, 1, 2, ... since the last barrier
};

void RunTeam(int64_t scratch, void (*work)(const Worker &, const void *), const void *context);

// work(worker) on every thread of the team, the calling one included, each with `scratch` floats of its own. The work must
// not throw. Calls from several threads wait for one another. Throws std::bad_alloc before any work is done.
template <class F>
void Parallel(int64_t scratch, const F &work) {
  RunTeam(scratch, [](const Worker &worker, const void *context) { (*static_cast<const F *>(context))(worker); }, &work);
}

int Threads();  // of the team
