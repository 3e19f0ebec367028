// The process that runs one candidate: maps what the judge shares, and runs a unit of launches every time it is continued.
//
// It stops itself when it is ready and after every unit; the judge's clock runs from SIGCONT until it sees the process
// stopped. Nothing is timed, compared or decided here.

#include "runtime.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "block.h"
#include "control.h"
#include "fault.h"
#if defined(KFORGE_RACE)
#include "race.h"
#elif defined(KFORGE_BOUNDS)
#include "bounds.h"
#endif

extern "C" {
// Read by candidates as `const` variables of CUDA types with these names.
__thread kforge::Place threadIdx __attribute__((aligned(16)));
__thread kforge::Place blockIdx __attribute__((aligned(16)));
__thread uint32_t kforge_lane;
__thread uint32_t kforge_shared_generation;
__thread uint32_t kforge_poll_count;
__thread void* kforge_dynamic_shared;
uint32_t blockDim[3];
uint32_t gridDim[3];

// Written by the generated end of the candidate.
extern const kforge::Entry kforge_entries[];
extern const uint32_t kforge_entry_count;
}

namespace kforge {

constexpr uint32_t MAX_SHARED_BYTES = 227 << 10;
#if defined(KFORGE_INSPECTED)
constexpr size_t SHARED_REGION_BYTES = 1 << 20;  // variables lie apart
#else
constexpr size_t SHARED_REGION_BYTES = 228 << 10;
#endif
constexpr size_t SHARED_GUARD_BYTES = 64 << 10;
constexpr size_t SIGNAL_STACK_BYTES = 64 << 10;

static SharedVariable* shared_variables = nullptr;

SharedVariable::SharedVariable(void* (*address)(), size_t bytes) : next(shared_variables), address(address), bytes(bytes) { shared_variables = this; }

// What an operating system thread owns besides its fibers.
struct Arena {
    char* statics;
    char* dynamic_end;
    size_t statics_used;
    size_t gaps;  // of that, between variables
    uint64_t first_block;  // of the chunk being run, and behind its last
    uint64_t end_block;
};
static __thread Arena arena;

// The job that all operating system threads work on; `generation` counts jobs and starts them.
static struct {
    alignas(64) uint32_t generation;
    alignas(64) uint32_t finished;
    alignas(64) uint64_t claimed;
    alignas(64) void (*work)(Worker&);
    uint32_t threads;
    uint64_t blocks;
    uint64_t chunk;
    uint32_t launch_generation;
    const Entry* entry;
    const void* const* arguments;
    uint32_t shared_bytes;
    size_t variable_bytes;
    char* zero_start;
    uint64_t zero_bytes;
} job;

// ---- What candidates call ----

Turn arrive_at_collective(uint32_t mask, Collective kind, uint64_t value, uint32_t source_lane) {
    Worker& w = *worker;
    Warp& warp = *w.warp;
    const uint32_t lane = w.thread % LANES;
    const uint32_t bit = 1u << lane;
    const uint64_t key = static_cast<uint64_t>(kind) << 32 | mask;
#if defined(KFORGE_INSPECTED)
    w.sites[w.thread] = __builtin_return_address(0);
#endif
    if (__builtin_expect((mask & bit) == 0, 0)) {
        record_site(w);
        fail(FAULT_SYNC_ERROR, "lane %u called `%s` with mask 0x%08x, which does not name it", lane, name_of(kind), mask);
    }
    warp.values[lane] = value;
    warp.sources[lane] = static_cast<uint8_t>(source_lane);
    warp.keys[lane] = key;
    if (warp.waiting == 0) {
        warp.key = key;
    } else if (__builtin_expect(key != warp.key, 0)) {
        warp.mixed = true;
    }
    warp.waiting |= bit;
    const uint32_t group = mask & warp.live;
    if ((group & ~warp.waiting) == 0 && (__builtin_expect(!warp.mixed, 1) || all_agree(warp, group, key))) {
        complete(warp, group, kind);
        return {&w.contexts[w.thread], nullptr};
    }
    warp.ready &= ~bit;
    if (is_shuffled()) return turn_to(w, scheduled_thread(w));
    // Those that this lane waits for go first.
    const uint32_t wanted = warp.ready & mask;
    return turn_to(w, wanted != 0 ? (w.thread - lane) | first_from(wanted, lane) : next_thread(w));
}

Turn arrive_at_barrier(uint32_t predicate) {
    Worker& w = *worker;
#if defined(KFORGE_INSPECTED)
    w.sites[w.thread] = __builtin_return_address(0);
#endif
    w.votes += predicate;
    if (++w.arrived == w.live_threads) {
        release_barrier(w);
        return {&w.contexts[w.thread], nullptr};
    }
    const uint32_t bit = 1u << (w.thread % LANES);
    w.warp->at_barrier |= bit;
    w.warp->ready &= ~bit;
    if (is_shuffled()) return turn_to(w, scheduled_thread(w));
    const uint32_t ready = w.warp->ready;
    return turn_to(w, ready != 0 ? (w.thread & ~(LANES - 1)) | first_from(ready, w.thread % LANES) : next_thread(w));
}

// Not overwritten before every thread has read it: the next barrier needs them all.
uint32_t barrier_vote(Vote vote) {
    const Worker& w = *worker;
    switch (vote) {
        case Vote::all: return w.released_votes == w.released;
        case Vote::any: return w.released_votes != 0;
        default: return w.released_votes;
    }
}

__attribute__((noinline)) uint32_t active_lanes(uint32_t place) {
    Worker& w = *worker;
    Warp& warp = *w.warp;
    const uint32_t lane = w.thread % LANES;
    warp.values[lane] = place;
    warp.querying |= 1u << lane;
    warp.ready &= ~(1u << lane);
    const uint32_t next = next_thread(w);
    if (next != w.thread) hand_over(w, next);
    return static_cast<uint32_t>(warp.contexts[lane].answer);
}

__attribute__((noinline)) void yield() {
    Worker& w = *worker;
    // A constructor runs before there is any block.
    if (w.live_threads == 0) {
        sched_yield();
        return;
    }
    const uint32_t next = next_in_turn(w);
    // Alone in its block, it waits for another one, which may need this core.
    if (next == w.thread) {
        sched_yield();
    } else {
        hand_over(w, next);
    }
}

__attribute__((noinline)) void* shared_place(SharedSlot& slot, size_t bytes, size_t alignment) {
    const size_t start = (arena.statics_used + alignment - 1) & ~(alignment - 1);
    const size_t total = start + bytes + job.variable_bytes + job.shared_bytes - arena.gaps;
    if (total > MAX_SHARED_BYTES) {
        fail(FAULT_LIMIT_EXCEEDED, "the kernel needs %zu bytes of shared memory (%u of them dynamic), and a block has %u", total, job.shared_bytes,
             MAX_SHARED_BYTES);
    }
    arena.statics_used = start + bytes;
    slot.address = arena.statics + start;
    slot.generation = kforge_shared_generation;
    memset(slot.address, 0xff, bytes);
#if defined(KFORGE_INSPECTED)
    mark_shared(reinterpret_cast<uintptr_t>(slot.address), bytes);
    arena.statics_used += SHARED_GAP_BYTES;
    arena.gaps += SHARED_GAP_BYTES;
#endif
    return slot.address;
}

void device_trap() { abort_kernel("`__trap` was called"); }

void assertion_failed(const char* expression, const char* file, int line) { abort_kernel("assertion `%s` failed at %s:%d", expression, file, line); }

bool is_shared(const void* pointer) { return pointer >= arena.statics && pointer < arena.dynamic_end; }

uint64_t device_clock() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t ticks;
    asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

uint64_t global_timer() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// ---- Blocks ----

void run_threads() {
    Worker& w = *worker;
    run_threads_of(w, w.stack_of[w.thread]);
}

static void poison_shared() {
    if (arena.statics_used != 0) memset(arena.statics, 0xff, arena.statics_used);
    if (job.shared_bytes != 0) memset(kforge_dynamic_shared, 0xff, job.shared_bytes);
    for (SharedVariable* variable = shared_variables; variable != nullptr; variable = variable->next) memset(variable->address(), 0xff, variable->bytes);
}

// The next block of the launch. Blocks are handed out in order, a few at a time: one may wait for an earlier one.
static bool next_block(Worker& w) {
#if defined(KFORGE_RACE)
    end_watch_of_block();
#endif
    if (arena.first_block == arena.end_block) {
        const uint64_t first = __atomic_fetch_add(&job.claimed, job.chunk, __ATOMIC_RELAXED);
        if (first >= job.blocks) return false;
        arena.first_block = first;
        arena.end_block = first + job.chunk < job.blocks ? first + job.chunk : job.blocks;
        current_block.x = static_cast<uint32_t>(first % gridDim[0]);
        current_block.y = static_cast<uint32_t>(first / gridDim[0] % gridDim[1]);
        current_block.z = static_cast<uint32_t>(first / gridDim[0] / gridDim[1]);
    } else if (++current_block.x == gridDim[0]) {
        current_block.x = 0;
        if (++current_block.y == gridDim[1]) {
            current_block.y = 0;
            ++current_block.z;
        }
    }
    ++arena.first_block;
    poison_shared();
    reset_block(w);
#if defined(KFORGE_RACE)
    watch_block(w, arena.first_block - 1);
#elif defined(KFORGE_BOUNDS)
    renew_shared();
#endif
    return true;
}

// The inspected builds run on one operating system thread, so all blocks of a launch are this one's.
static void begin_launch([[maybe_unused]] Worker& w) {
#if defined(KFORGE_RACE)
    watch_launch(w, job.blocks);
#elif defined(KFORGE_BOUNDS)
    forget_shared();
#endif
#if defined(KFORGE_INSPECTED)
    if (job.shared_bytes != 0) mark_shared(reinterpret_cast<uintptr_t>(kforge_dynamic_shared), job.shared_bytes);
#endif
}

static void run_blocks(Worker& w) {
    w.entry = job.entry;
    w.arguments = job.arguments;
    w.next_block = next_block;
    w.thread_count = blockDim[0] * blockDim[1] * blockDim[2];
    w.warp_count = (w.thread_count + LANES - 1) / LANES;
    for (uint32_t thread = 0, x = 0, y = 0, z = 0; thread < w.thread_count; ++thread) {
        w.places[thread] = {x, y, z, thread % LANES};
        if (++x == blockDim[0]) {
            x = 0;
            if (++y == blockDim[1]) {
                y = 0;
                ++z;
            }
        }
    }
    arena.statics_used = arena.gaps = 0;
    arena.first_block = arena.end_block = 0;
    kforge_shared_generation = job.launch_generation;
    kforge_dynamic_shared = arena.dynamic_end - ((job.shared_bytes + 15) & ~15u);
    begin_launch(w);
    if (!next_block(w)) return;
    fault_context.block = &current_block.x;
    fault_context.thread = &current_thread.x;
    const uint32_t stack = w.stacks.take();
    const uint32_t first = w.thread;
    start(w, first, stack);
    w.contexts[first] = fresh_context(run_threads, w.stacks.top(stack));
    swap_context(&w.home, &w.contexts[first]);
#if defined(KFORGE_RACE)
    end_watch();
#endif
    fault_context.block = nullptr;
    fault_context.thread = nullptr;
}

// ---- Operating system threads ----

static void* reserve(size_t bytes) {
    void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) fail(FAULT_PROTOCOL, "no room for %zu bytes of addresses", bytes);
    return start;
}

static Worker* make_worker() {
    void* memory = mmap(nullptr, sizeof(Worker) + SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail(FAULT_PROTOCOL, "no memory for the state of a thread");
    Worker* made = static_cast<Worker*>(memory);
    handle_signals_apart(static_cast<char*>(memory) + sizeof(Worker), SIGNAL_STACK_BYTES);
    if (!made->stacks.reserve()) fail(FAULT_PROTOCOL, "no room for the stacks of a block");

    char* shared = static_cast<char*>(reserve(2 * (SHARED_REGION_BYTES + SHARED_GUARD_BYTES)));
    arena.statics = shared;
    arena.dynamic_end = shared + 2 * SHARED_REGION_BYTES + SHARED_GUARD_BYTES;
    if (mprotect(arena.statics, SHARED_REGION_BYTES, PROT_READ | PROT_WRITE) != 0 ||
        mprotect(arena.dynamic_end - SHARED_REGION_BYTES, SHARED_REGION_BYTES, PROT_READ | PROT_WRITE) != 0) {
        fail(FAULT_PROTOCOL, "no memory for shared memory");
    }
    fault_context.stacks = &made->stacks;
    fault_context.shared_end = arena.dynamic_end;
    fault_context.shared_guard_bytes = SHARED_GUARD_BYTES;
    worker = made;
#if defined(KFORGE_RACE)
    watch_shared(reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(arena.dynamic_end) + SHARED_GUARD_BYTES);
#elif defined(KFORGE_BOUNDS)
    find_shared(reinterpret_cast<uintptr_t>(shared), reinterpret_cast<uintptr_t>(arena.dynamic_end) + SHARED_GUARD_BYTES);
    map_shadow(made->stacks.start(), made->stacks.end());
#endif
    return made;
}

// Spins, because the wait is short while a unit runs, and while none runs the whole process is stopped.
template <typename Condition>
static void wait_until(Condition condition) {
    for (uint32_t spins = 0; !condition(); ++spins) {
        if (spins < 2000) {
            relax();
        } else {
            sched_yield();
        }
    }
}

// Each thread on a core of its own: otherwise two may share one for the life of the process, and the judge would compare
// placements rather than kernels. Where a core is refused the thread stays where the system puts it.
static void settle_on_core(uint32_t thread) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    uint32_t turn = thread % static_cast<uint32_t>(CPU_COUNT(&allowed));
    for (int core = 0; core < CPU_SETSIZE; ++core) {
        if (!CPU_ISSET(core, &allowed) || turn-- != 0) continue;
        cpu_set_t own;
        CPU_ZERO(&own);
        CPU_SET(core, &own);
        sched_setaffinity(0, sizeof(own), &own);
        return;
    }
}

static void* help(void* number) {
    settle_on_core(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(number)));
    Worker* own = make_worker();
    __atomic_fetch_add(&job.finished, 1, __ATOMIC_ACQ_REL);
    for (uint32_t seen = 0;;) {
        wait_until([seen] { return __atomic_load_n(&job.generation, __ATOMIC_ACQUIRE) != seen; });
        ++seen;
        job.work(*own);
        __atomic_fetch_add(&job.finished, 1, __ATOMIC_ACQ_REL);
    }
    return nullptr;
}

static void wait_for_helpers() {
    wait_until([] { return __atomic_load_n(&job.finished, __ATOMIC_ACQUIRE) == job.threads - 1; });
}

static void run_on_all(void (*work)(Worker&)) {
    job.work = work;
    job.claimed = 0;
    __atomic_store_n(&job.finished, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&job.generation, 1, __ATOMIC_RELEASE);
    work(*worker);
    wait_for_helpers();
}

// ---- Units ----

constexpr uint64_t ZERO_PIECE_BYTES = 256 << 10;

static void zero_pieces(Worker&) {
    for (;;) {
        const uint64_t start = __atomic_fetch_add(&job.claimed, ZERO_PIECE_BYTES, __ATOMIC_RELAXED);
        if (start >= job.zero_bytes) return;
        const uint64_t rest = job.zero_bytes - start;
        memset(job.zero_start + start, 0, rest < ZERO_PIECE_BYTES ? rest : ZERO_PIECE_BYTES);
    }
}

static void zero(const Control::Buffer& buffer) {
    job.zero_start = reinterpret_cast<char*>(buffer.address);
    job.zero_bytes = buffer.data_bytes;
    if (job.zero_bytes < 4 * ZERO_PIECE_BYTES) {
        memset(job.zero_start, 0, job.zero_bytes);
    } else {
        run_on_all(zero_pieces);
    }
}

static void run_launch(const Control& control, const Control::Launch& launch) {
    const uint64_t block_threads = static_cast<uint64_t>(launch.block[0]) * launch.block[1] * launch.block[2];
    if (launch.entry >= kforge_entry_count) fail(FAULT_PROTOCOL, "a launch names entry %u of %u", launch.entry, kforge_entry_count);
    const Entry& entry = kforge_entries[launch.entry];
    if (launch.argument_count != entry.argument_count || launch.first_argument > MAX_ARGUMENTS ||
        launch.argument_count > MAX_ARGUMENTS - launch.first_argument) {
        fail(FAULT_PROTOCOL, "a launch passes %u arguments, its kernel takes %u", launch.argument_count, entry.argument_count);
    }
    if ((launch.flags & LAUNCH_COOPERATIVE) != 0) fail(FAULT_PROTOCOL, "cooperative launches cannot run here");
    if (launch.block[0] > 1024 || launch.block[1] > 1024 || launch.block[2] > 64 || block_threads > MAX_THREADS) {
        fail(FAULT_LIMIT_EXCEEDED, "a block of %u x %u x %u threads: it may have 1024, and 64 in z", launch.block[0], launch.block[1], launch.block[2]);
    }
    if (launch.grid[0] > 0x7fffffff || launch.grid[1] > 65535 || launch.grid[2] > 65535) {
        fail(FAULT_LIMIT_EXCEEDED, "a grid of %u x %u x %u blocks: it may have 2147483647 x 65535 x 65535", launch.grid[0], launch.grid[1],
             launch.grid[2]);
    }
    if (block_threads == 0 || launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) fail(FAULT_LIMIT_EXCEEDED, "a launch without threads");
    if (job.variable_bytes + launch.shared_bytes > MAX_SHARED_BYTES) {
        fail(FAULT_LIMIT_EXCEEDED, "the launch asks for %u bytes of dynamic shared memory, and a block has %u", launch.shared_bytes,
             static_cast<uint32_t>(MAX_SHARED_BYTES - job.variable_bytes));
    }

    static uint64_t values[MAX_ARGUMENTS];
    static const void* pointers[MAX_ARGUMENTS];
    for (uint32_t i = 0; i < launch.argument_count; ++i) {
        const Control::Argument& argument = control.arguments[launch.first_argument + i];
        if (argument.kind == ARGUMENT_BUFFER && argument.buffer >= control.buffer_count) fail(FAULT_PROTOCOL, "an argument names buffer %u", argument.buffer);
        values[i] = argument.kind == ARGUMENT_BUFFER ? control.buffers[argument.buffer].address + argument.bytes : argument.bytes;
        pointers[i] = &values[i];
    }

    memcpy(blockDim, launch.block, sizeof(blockDim));
    memcpy(gridDim, launch.grid, sizeof(gridDim));
    job.blocks = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    job.chunk = job.blocks / (job.threads * 32u);
    job.chunk = job.chunk < 1 ? 1 : job.chunk > 16 ? 16 : job.chunk;
    job.entry = &entry;
    job.arguments = pointers;
    job.shared_bytes = launch.shared_bytes;
    ++job.launch_generation;
    if (job.blocks == 1) {
        job.claimed = 0;
        run_blocks(*worker);
    } else {
        run_on_all(run_blocks);
    }
}

static void run_unit(const Control& control) {
    if (control.launch_count > MAX_LAUNCHES) fail(FAULT_PROTOCOL, "%u launches", control.launch_count);
#if defined(KFORGE_RACE)
    watch_unit(control);
#endif
    for (uint32_t i = 0; i < control.buffer_count; ++i) {
        if ((control.buffers[i].flags & BUFFER_ZERO) != 0) zero(control.buffers[i]);
    }
    for (uint32_t i = 0; i < control.launch_count; ++i) run_launch(control, control.launches[i]);
    fflush(stdout);
}

// ---- Start ----

static void map_buffers(Control& control) {
    if (control.buffer_count > MAX_BUFFERS) fail(FAULT_PROTOCOL, "%u buffers", control.buffer_count);
    uint64_t addresses = GUARD_BYTES;
    for (uint32_t i = 0; i < control.buffer_count; ++i) addresses += control.buffers[i].mapped_bytes + GUARD_BYTES;
    char* next = static_cast<char*>(reserve(addresses)) + GUARD_BYTES;
    [[maybe_unused]] const uintptr_t start = reinterpret_cast<uintptr_t>(next) - GUARD_BYTES;
    for (uint32_t i = 0; i < control.buffer_count; ++i) {
        Control::Buffer& buffer = control.buffers[i];
        if (buffer.data_offset > buffer.mapped_bytes || buffer.data_bytes > buffer.mapped_bytes - buffer.data_offset) {
            fail(FAULT_PROTOCOL, "buffer %u does not lie within its mapping", i);
        }
        const int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
        // What nothing may write cannot be written: also by whoever would put it back.
        const int protection = (buffer.flags & BUFFER_READ_ONLY) != 0 ? PROT_READ : PROT_READ | PROT_WRITE;
        if (mmap(next, buffer.mapped_bytes, protection, flags, CONTROL_DESCRIPTOR, static_cast<off_t>(buffer.file_offset)) == MAP_FAILED) {
            fail(FAULT_PROTOCOL, "buffer %u could not be mapped", i);
        }
        buffer.address = reinterpret_cast<uint64_t>(next) + buffer.data_offset;
        next += buffer.mapped_bytes + GUARD_BYTES;
    }
#if defined(KFORGE_RACE)
    watch_memory(control, start, start + addresses);
#elif defined(KFORGE_BOUNDS)
    find_buffers(control, start, start + addresses, false);
#endif
}

// Before any constructor of the candidate: all that needs the system's help is done by then, and its help ends.
static void prepare() {
#if defined(__linux__)
    kforge_confine_start();
#endif
    void* mapped = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, CONTROL_DESCRIPTOR, 0);
    if (mapped == MAP_FAILED) _exit(FAULT_EXIT_CODE);
    Control& control = *static_cast<Control*>(mapped);
    if (control.magic != CONTROL_MAGIC || control.version != CONTROL_VERSION) _exit(FAULT_EXIT_CODE);
    control_page = &control;
    handle_signals();
    // A line at a time: what a kernel printed before it hung or died is what a person looks for. And a buffer of its own: libc
    // would ask what kind of file this is to choose one.
    static char printed[16 << 10];
    setvbuf(stdout, printed, _IOLBF, sizeof(printed));
    map_buffers(control);
    close(CONTROL_DESCRIPTOR);

    job.threads = control.threads == 0 ? 1 : control.threads;
#if defined(KFORGE_INSPECTED)
    job.threads = 1;
#endif
#if defined(__GLIBC__)
    // Older ones read a file to learn how many would be good.
    mallopt(M_ARENA_MAX, static_cast<int>(job.threads));
#endif
    make_worker();
    for (uint32_t i = 1; i < job.threads; ++i) {
        pthread_t helper;
        if (pthread_create(&helper, nullptr, help, reinterpret_cast<void*>(static_cast<uintptr_t>(i))) != 0) fail(FAULT_PROTOCOL, "thread %u of %u could not be started", i, job.threads);
        pthread_detach(helper);
    }
    wait_for_helpers();
    // Only now: threads inherit the cores of the one that starts them.
    settle_on_core(0);
#if defined(__linux__)
    confine_kernel();
#endif
}

#if defined(__linux__)
// The first of its kind, because this object is linked first.
__attribute__((section(".preinit_array"), used)) static void (*const prepare_first)() = prepare;
#endif

static void run() {
#if !defined(__linux__)
    prepare();
#endif
    // Each told of itself in its constructor.
    for (SharedVariable* variable = shared_variables; variable != nullptr; variable = variable->next) job.variable_bytes += variable->bytes;
    for (;;) {
        raise(SIGSTOP);
        run_unit(*control_page);
    }
}

}  // namespace kforge

int main() { kforge::run(); }
