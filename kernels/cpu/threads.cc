#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kMaxThreads = 255;
constexpr std::chrono::microseconds kSpin{50};  // longer spinning would take cores from threads with work

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// A number whose change threads can wait for.
class Event {
 public:
  uint32_t Value() const { return value_.load(std::memory_order_acquire); }

  void Set(uint32_t value) {
    value_.store(value, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr);
  }

  void SpinUntilNot(uint32_t seen) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        if (Value() != seen) return;
        Pause();
      }
    } while (std::chrono::steady_clock::now() < end);
    SleepUntilNot(seen);
  }

  void SleepUntilNot(uint32_t seen) {
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

// The cores that this process may use.
const cpu_set_t &Cores() {
  static const cpu_set_t cores = [] {
    cpu_set_t set;
    if (sched_getaffinity(getpid(), sizeof(set), &set) != 0) CPU_ZERO(&set);
    return set;
  }();
  return cores;
}

// Memory that grows and is never returned: new pages cost more than the work of a small call.
struct Scratch {
  std::unique_ptr<float[]> floats;
  int64_t size = 0;

  void Reserve(int64_t wanted) {
    if (size >= wanted) return;
    floats.reset();
    size = 0;
    floats.reset(new float[wanted]);
    size = wanted;
  }
};

// The threads live as long as the process and are not joined, since they have no work to complete at its end.
struct Team {
  std::mutex busy;
  Event members;  // number of threads in runs, including the calling one; the others sleep until it grows
  Event start;    // start of a run: its number in the bits above kMaxThreads, and the number of its members
  Event phase;
  std::atomic<bool> crowded{false};  // more members than cores: a spinning thread would keep another from its work
  alignas(64) std::atomic<int64_t> arrived{0};
  alignas(64) std::atomic<int64_t> next{0};
  std::vector<pthread_t> workers;
  std::vector<Scratch> scratch;  // one per member
  int avoided = -1;              // the core that the workers do not use
  void (*work)(const Worker &, const void *) = nullptr;
  const void *context = nullptr;

  void Wait(Event *event, uint32_t seen) const { crowded ? event->SleepUntilNot(seen) : event->SpinUntilNot(seen); }

  // Starts missing threads. Returns the number of members: the requested number, or less if threads cannot be created.
  int64_t Gather(int64_t wanted) {
    try {
      workers.reserve(wanted);
      for (int64_t index = workers.size() + 1; index < wanted; ++index) {
        std::thread worker(&Team::Loop, this, index);
        workers.push_back(worker.native_handle());
        worker.detach();
        avoided = -1;
      }
    } catch (const std::system_error &) {
    }
    return std::min<int64_t>(wanted, workers.size() + 1);
  }

  // Linux tends to wake a thread on the core of the thread that wakes it, where it would have to wait for that thread.
  void AvoidTheCallersCore() {
    const int core = sched_getcpu();
    if (core < 0 || core == avoided) return;
    avoided = core;
    cpu_set_t others = Cores();
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const pthread_t worker : workers) pthread_setaffinity_np(worker, sizeof(others), &others);
  }

  void Loop(int64_t index) {
    for (uint32_t seen = 0;;) {  // the value of a run is never 0, because it has members
      for (uint32_t count = members.Value(); index >= count; count = members.Value()) members.SleepUntilNot(count);
      Wait(&start, seen);
      seen = start.Value();
      if (index < (seen & kMaxThreads)) Work(index, seen & kMaxThreads);
    }
  }

  void Work(int64_t index, int64_t count) {
    const Worker worker(index, count, scratch[index].floats.get());
    work(worker, context);
    worker.Barrier();
  }
};

std::atomic<Team *> the_team{nullptr};

// A forked child has none of the threads, and may have been forked while the lock was held. It therefore creates a new team
// at its first call.
void ForgetTheTeam() { the_team = nullptr; }

Team &TheTeam() {
  Team *team = the_team;
  if (team != nullptr) return *team;
  static const int registered = pthread_atfork(nullptr, nullptr, ForgetTheTeam);
  static_cast<void>(registered);
  auto fresh = std::make_unique<Team>();
  if (the_team.compare_exchange_strong(team, fresh.get())) return *fresh.release();
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
    team.Wait(&team.phase, phase);
  }
}

int64_t Worker::Next() const { return TheTeam().next.fetch_add(1, std::memory_order_relaxed); }

void RunTeam(int64_t scratch, void (*work)(const Worker &, const void *), const void *context) {
  Team &team = TheTeam();
  const std::lock_guard<std::mutex> lock(team.busy);
  const int64_t count = team.Gather(Threads());
  if (team.scratch.size() < static_cast<size_t>(count)) team.scratch.resize(count);
  for (int64_t index = 0; index < count; ++index) team.scratch[index].Reserve(scratch);
  team.work = work;
  team.context = context;
  if (count > 1) {
    team.AvoidTheCallersCore();
    team.crowded = count > CPU_COUNT(&Cores());
    if (team.members.Value() != count) team.members.Set(count);
    team.start.Set(((team.start.Value() | kMaxThreads) + 1) | static_cast<uint32_t>(count));
  }
  team.Work(0, count);
}

// For Python, through ctypes.

extern "C" void UseThreads(int count) { asked = count; }  // 0: the number of usable cores

extern "C" int ThreadCount() { return Threads(); }
