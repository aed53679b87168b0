// One team of threads for all operators, regardless of the MindSpore thread that calls them.
//
// OpenMP keeps a team for every calling thread, and stops spinning at barriers as soon as all teams together have more
// threads than there are cores. A barrier then puts threads to sleep and wakes them, which took longer than the work of a
// small layer.

#pragma once

#include <cstdint>

class Worker {
 public:
  Worker(int64_t index, int64_t count, float *scratch) : index(index), count(count), scratch(scratch) {}

  const int64_t index, count;
  float *const scratch;  // memory of this thread only, of the size passed to Parallel; not initialised

  // Waits until all threads of the run have arrived.
  void Barrier() const;

  // Calls f(i) for all i < n, in one contiguous range per thread, followed by a barrier.
  template <class F>
  void Static(int64_t n, const F &f) const {
    for (int64_t i = n * index / count; i < n * (index + 1) / count; ++i) f(i);
    Barrier();
  }

  // Calls f(i) for all i < n, each on the next free thread, followed by a barrier.
  template <class F>
  void Dynamic(int64_t n, const F &f) const {
    for (int64_t i = Next(); i < n; i = Next()) f(i);
    Barrier();
  }

 private:
  int64_t Next() const;  // 0, 1, 2, ... since the last barrier
};

void RunTeam(int64_t scratch, void (*work)(const Worker &, const void *), const void *context);

// Calls work(worker) on every thread of the team, including the calling one, each with its own `scratch` floats. The work
// must not throw. Calls from several threads run one after another. Throws std::bad_alloc before any work is done.
template <class F>
void Parallel(int64_t scratch, const F &work) {
  RunTeam(scratch, [](const Worker &worker, const void *context) { (*static_cast<const F *>(context))(worker); }, &work);
}

int Threads();  // number of threads of the team
