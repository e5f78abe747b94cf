#include "engine/compute/cuda/emulation/threads.h"

#include <pthread.h>
#include <sys/mman.h>

#include <bit>
#include <cstdio>
#include <memory>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace hostler::cuda_emulation {

constinit thread_local ThisThread* this_thread = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 128 << 10;
#else
constexpr size_t kStackBytes = 32 << 10;
#endif

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "emulated device: %s\n", what);
  std::abort();
}

// A stack, and where on it execution stands.
struct Fiber {
#if defined(__x86_64__)
  void* top = nullptr;
#else
  ucontext_t context;
#endif
  std::byte* stack = nullptr;
  size_t stack_bytes = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  void* tsan = nullptr;
#endif
};

#if defined(__x86_64__)
extern "C" void HostlerSwitchStack(void** from, void* to);
asm(R"(
.text
.type HostlerSwitchStack,@function
HostlerSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size HostlerSwitchStack,.-HostlerSwitchStack
)");
#endif

void Switch(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, 0);
#endif
#if defined(__x86_64__)
  HostlerSwitchStack(&from.top, to.top);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

struct Lane {
  ThisThread coordinates;
  Fiber fiber;
  int index = 0;
  unsigned exchanges = 0;
};

struct Warp {
  uint32_t alive = 0, ready = 0, waiting = 0, at_block_barrier = 0;
  uint64_t exchange[2][kWarp];
  uint32_t fragments[2][kWarp * kFragmentWords];
};

// The block at hand. One for each thread of the host that runs blocks: its fibers
// live as long as that.
class Block {
 public:
  ~Block() {
    for (const auto& lane : lanes_) munmap(lane->fiber.stack, kStackBytes);
  }

  void Run(const Launch& launch, uint3 index, const std::function<void()>& kernel) {
    const int threads = static_cast<int>(launch.block.x);
    while (static_cast<int>(lanes_.size()) < threads) AddLane();
    const int warps = (threads + kWarp - 1) / kWarp;
    if (static_cast<int>(warps_.size()) < warps) warps_.resize(warps);
    active_warps_ = warps;
    for (int w = 0; w < warps; ++w) {
      const int lanes = threads - w * kWarp;
      warps_[w].alive = warps_[w].ready = lanes >= kWarp ? ~0u : (1u << lanes) - 1;
      warps_[w].waiting = warps_[w].at_block_barrier = 0;
    }
    for (int t = 0; t < threads; ++t) {
      lanes_[t]->coordinates = {{unsigned(t), 0, 0}, index, launch.block, launch.grid};
      lanes_[t]->exchanges = 0;
    }
    alive_ = threads;
    at_barrier_ = 0;
    kernel_ = &kernel;
    SetMainStack();
    warps_[0].ready &= ~1u;
    Enter(main_, *lanes_[0]);
  }

  void WarpBarrier() {
    Lane& lane = *current_;
    Warp& warp = warps_[lane.index / kWarp];
    warp.waiting |= 1u << lane.index % kWarp;
    if (warp.waiting != warp.alive) return Next(lane.fiber);
    warp.ready |= warp.waiting & ~(1u << lane.index % kWarp);
    warp.waiting = 0;
  }

  void BlockBarrier() {
    Lane& lane = *current_;
    warps_[lane.index / kWarp].at_block_barrier |= 1u << lane.index % kWarp;
    if (++at_barrier_ != alive_) return Next(lane.fiber);
    at_barrier_ = 0;
    for (int w = 0; w < active_warps_; ++w) {
      warps_[w].ready |= warps_[w].at_block_barrier;
      warps_[w].at_block_barrier = 0;
    }
    warps_[lane.index / kWarp].ready &= ~(1u << lane.index % kWarp);
  }

  // Two places in turn: a lane is one barrier ahead of another at most.
  uint64_t* ExchangePlace() {
    Lane& lane = *current_;
    return warps_[lane.index / kWarp].exchange[lane.exchanges++ % 2];
  }

  uint32_t* FragmentPlace() {
    Lane& lane = *current_;
    return warps_[lane.index / kWarp].fragments[lane.exchanges++ % 2];
  }

  bool running() const { return current_ != nullptr; }

 private:
  static Block* of_thread(Block* set = nullptr) {
    thread_local Block* block = nullptr;
    if (set != nullptr) block = set;
    return block;
  }

  // A lane's first function: every block's kernel, one after another.
  static void Main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    Block& block = *of_thread();
    Lane& lane = *block.current_;
    for (;;) {
      (*block.kernel_)();
      block.Leave(lane);
    }
  }

  void SetMainStack() {
    of_thread(this);
    if (main_.stack != nullptr) return;
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    void* stack = nullptr;
    pthread_attr_getstack(&attributes, &stack, &main_.stack_bytes);
    pthread_attr_destroy(&attributes);
    main_.stack = static_cast<std::byte*>(stack);
#if defined(__SANITIZE_THREAD__)
    main_.tsan = __tsan_get_current_fiber();
#endif
  }

  void AddLane() {
    auto lane = std::make_unique<Lane>();
    lane->index = static_cast<int>(lanes_.size());
    Fiber& fiber = lane->fiber;
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) Die("no memory for a thread's stack");
    fiber.stack = static_cast<std::byte*>(stack);
    fiber.stack_bytes = kStackBytes;
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
    // Six saved registers, where to go, and what Main would return to.
    void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 8;
    for (int i = 0; i < 8; ++i) top[i] = nullptr;
    top[6] = reinterpret_cast<void*>(&Main);
    fiber.top = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, &Main, 0);
#endif
    lanes_.push_back(std::move(lane));
  }

  void Enter(Fiber& from, Lane& to) {
    current_ = &to;
    this_thread = &to.coordinates;
    Switch(from, to.fiber);
  }

  // Goes on with any lane that can, its own warp's first. Returns when `from` goes on.
  void Next(Fiber& from) {
    const int own = current_->index / kWarp;
    for (int i = 0; i < active_warps_; ++i) {
      const int w = own + i < active_warps_ ? own + i : own + i - active_warps_;
      Warp& warp = warps_[w];
      if (warp.ready == 0) continue;
      const int bit = std::countr_zero(warp.ready);
      warp.ready &= ~(1u << bit);
      return Enter(from, *lanes_[w * kWarp + bit]);
    }
    Die("the threads of a block wait for one another at different barriers");
  }

  void Leave(Lane& lane) {
    Warp& warp = warps_[lane.index / kWarp];
    warp.alive &= ~(1u << lane.index % kWarp);
    if (warp.waiting != 0 && warp.waiting == warp.alive) {
      Die("a thread ended while its warp waits for it");
    }
    if (--alive_ > 0) return Next(lane.fiber);
    current_ = nullptr;
    Switch(lane.fiber, main_);
  }

  Fiber main_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Warp> warps_;
  int active_warps_ = 0, alive_ = 0, at_barrier_ = 0;
  Lane* current_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
};

thread_local Block block;
thread_local std::vector<std::byte> shared_memory;

template <typename F>
void ForBlocks(const dim3& grid, F f) {
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) f(uint3{x, y, z});
    }
  }
}

}  // namespace

std::byte* SharedMemory() { return shared_memory.data(); }

void BlockBarrier() {
  if (!block.running()) Die("a barrier in a kernel launched as if its threads were independent");
  block.BlockBarrier();
}

void WarpBarrier() {
  if (!block.running()) Die("a barrier in a kernel launched as if its threads were independent");
  block.WarpBarrier();
}

uint64_t* ExchangePlace() { return block.ExchangePlace(); }
uint32_t* FragmentPlace() { return block.FragmentPlace(); }

void RunGrid(const Launch& launch, const std::function<void()>& kernel) {
  // What a block finds there is not zeros on a device either.
  shared_memory.assign(launch.shared_bytes, std::byte{0xff});
  if (!launch.independent) {
    ForBlocks(launch.grid, [&](uint3 index) { block.Run(launch, index, kernel); });
    return;
  }
  ThisThread thread{{}, {}, launch.block, launch.grid};
  this_thread = &thread;
  ForBlocks(launch.grid, [&](uint3 index) {
    thread.block = index;
    for (thread.thread.x = 0; thread.thread.x < launch.block.x; ++thread.thread.x) kernel();
  });
  this_thread = nullptr;
}

}  // namespace hostler::cuda_emulation
