#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kMaxThreads = 255;
constexpr int kSpins = 20000;  // half a millisecond or so: longer than the pause between two operators of a graph

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A number that threads wait on: they spin, then sleep.
class Event {
 public:
  uint32_t Value() const { return value_.load(std::memory_order_acquire); }

  void Set(uint32_t value) {
    value_.store(value, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr);
  }

  void WaitUntilNot(uint32_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (Value() != seen) return;
      Pause();
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (value_.load(std::memory_order_seq_cst) == seen) {
      syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr);
    }
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

 private:
  alignas(64) std::atomic<uint32_t> value_{0};
  std::atomic<int> sleepers_{0};
};

// Those that this process may use.
const cpu_set_t &Cores() {
  static const cpu_set_t cores = [] {
    cpu_set_t set;
    if (sched_getaffinity(getpid(), sizeof(set), &set) != 0) CPU_ZERO(&set);
    return set;
  }();
  return cores;
}

// The threads live as long as the process: at its end there is nothing that they would have to finish.
struct Team {
  std::mutex busy;
  Event start;  // of a run: its number above kMaxThreads, and how many take part
  Event phase;
  alignas(64) std::atomic<int64_t> arrived{0};
  alignas(64) std::atomic<int64_t> next{0};
  std::vector<pthread_t> workers;
  int avoided = -1;  // the core that they keep away from
  void (*work)(const Worker &, const void *) = nullptr;
  const void *context = nullptr;

  // Linux likes to wake a thread on the core of the one that wakes it, where it would wait for the end of that one's turn.
  void AvoidTheCallersCore() {
    const int core = sched_getcpu();
    if (core < 0 || core == avoided) return;
    avoided = core;
    cpu_set_t others = Cores();
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const pthread_t worker : workers) pthread_setaffinity_np(worker, sizeof(others), &others);
  }

  void Loop(int64_t index, uint32_t seen) {
    for (;;) {
      start.WaitUntilNot(seen);
      seen = start.Value();
      if (index < (seen & kMaxThreads)) Work(index, seen & kMaxThreads);
    }
  }

  void Work(int64_t index, int64_t count) {
    const Worker worker(index, count);
    work(worker, context);
    worker.Barrier();
  }
};

Team &TheTeam() {
  static Team *team = new Team;
  return *team;
}

std::atomic<int> asked{0};

}  // namespace

int Threads() { return std::clamp(asked > 0 ? asked.load() : CPU_COUNT(&Cores()), 1, static_cast<int>(kMaxThreads)); }

void Worker::Barrier() const {
  Team &team = TheTeam();
  if (count == 1) {
    team.next = 0;
    return;
  }
  const uint32_t phase = team.phase.Value();
  if (team.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
    team.arrived = 0;
    team.next = 0;
    team.phase.Set(phase + 1);
  } else {
    team.phase.WaitUntilNot(phase);
  }
}

int64_t Worker::Next() const { return TheTeam().next.fetch_add(1, std::memory_order_relaxed); }

void RunTeam(void (*work)(const Worker &, const void *), const void *context) {
  Team &team = TheTeam();
  const std::lock_guard<std::mutex> lock(team.busy);
  const int64_t wanted = Threads();
  try {
    for (int64_t index = team.workers.size() + 1; index < wanted; ++index) {
      std::thread worker(&Team::Loop, &team, index, team.start.Value());
      team.workers.push_back(worker.native_handle());
      worker.detach();
      team.avoided = -1;
    }
  } catch (const std::system_error &) {  // no more threads to be had: those that exist do the work
  }
  const int64_t count = std::min<int64_t>(wanted, team.workers.size() + 1);
  if (count > 1) team.AvoidTheCallersCore();
  team.work = work;
  team.context = context;
  if (count > 1) team.start.Set(((team.start.Value() | kMaxThreads) + 1) | static_cast<uint32_t>(count));
  team.Work(0, count);
}

// For Python, through ctypes.

extern "C" void UseThreads(int count) { asked = count; }  // 0: as many as there are cores to run on

extern "C" int ThreadCount() { return Threads(); }
