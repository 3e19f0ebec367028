// The process that runs one candidate: maps the memory that the judge shares, and runs the plan each time it is continued.
//
// The process stops itself when it is ready and after every run of the plan. The judge's clock runs from SIGCONT until the
// judge sees the process stopped. This file never measures time, compares outputs or decides a verdict.

#include "device_calls.h"
#include "launch_blocks.h"
#include "process_state.h"
#include "workers.h"

namespace kforge {

// ---- One run of the plan ----

constexpr uint64_t ZERO_CHUNK_BYTES = 256 << 10;

static void zero_chunks(Worker&) {
    for (;;) {
        const uint64_t start = __atomic_fetch_add(&job.claimed, ZERO_CHUNK_BYTES, __ATOMIC_RELAXED);
        if (start >= job.zero_bytes) return;
        const uint64_t rest = job.zero_bytes - start;
        memset(job.zero_start + start, 0, rest < ZERO_CHUNK_BYTES ? rest : ZERO_CHUNK_BYTES);
    }
}

static void zero(const ControlPage::Buffer& buffer) {
    job.zero_start = reinterpret_cast<char*>(buffer.address);
    job.zero_bytes = buffer.data_bytes;
    if (job.zero_bytes < 4 * ZERO_CHUNK_BYTES) {
        memset(job.zero_start, 0, job.zero_bytes);
    } else {
        run_on_all(zero_chunks);
    }
}

static void run_launch(const ControlPage& control, const ControlPage::Launch& launch) {
    const uint64_t block_threads = static_cast<uint64_t>(launch.block[0]) * launch.block[1] * launch.block[2];
    if (launch.entry >= kforge_entry_count) fail(FAULT_PROTOCOL, "a launch refers to entry %u of %u", launch.entry, kforge_entry_count);
    const Entry& entry = kforge_entries[launch.entry];
    if (launch.argument_count != entry.argument_count || launch.first_argument > MAX_ARGUMENTS ||
        launch.argument_count > MAX_ARGUMENTS - launch.first_argument) {
        fail(FAULT_PROTOCOL, "a launch passes %u arguments, its kernel takes %u", launch.argument_count, entry.argument_count);
    }
    if ((launch.flags & LAUNCH_COOPERATIVE) != 0) fail(FAULT_PROTOCOL, "cooperative launches cannot run here");
    if (launch.block[0] > 1024 || launch.block[1] > 1024 || launch.block[2] > 64 || block_threads > MAX_THREADS) {
        fail(FAULT_LIMIT_EXCEEDED, "a block of %u x %u x %u threads: the limit is 1024, and 64 in z", launch.block[0], launch.block[1], launch.block[2]);
    }
    if (launch.grid[0] > 0x7fffffff || launch.grid[1] > 65535 || launch.grid[2] > 65535) {
        fail(FAULT_LIMIT_EXCEEDED, "a grid of %u x %u x %u blocks: the limit is 2147483647 x 65535 x 65535", launch.grid[0], launch.grid[1],
             launch.grid[2]);
    }
    if (block_threads == 0 || launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) fail(FAULT_LIMIT_EXCEEDED, "a launch with no threads");
    if (job.variable_bytes + launch.shared_bytes > MAX_SHARED_BYTES) {
        fail(FAULT_LIMIT_EXCEEDED, "the launch asks for %u bytes of dynamic shared memory, but only %u are left in a block", launch.shared_bytes,
             static_cast<uint32_t>(MAX_SHARED_BYTES - job.variable_bytes));
    }

    static uint64_t values[MAX_ARGUMENTS];
    static const void* pointers[MAX_ARGUMENTS];
    for (uint32_t i = 0; i < launch.argument_count; ++i) {
        const ControlPage::Argument& argument = control.arguments[launch.first_argument + i];
        if (argument.kind == ARGUMENT_BUFFER && argument.buffer >= control.buffer_count) fail(FAULT_PROTOCOL, "an argument refers to buffer %u", argument.buffer);
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

static void run_plan(const ControlPage& control) {
    if (control.launch_count > MAX_LAUNCHES) fail(FAULT_PROTOCOL, "%u launches", control.launch_count);
#if defined(KFORGE_RACE)
    race_begin_run(control);
#endif
    for (uint32_t i = 0; i < control.buffer_count; ++i) {
        if ((control.buffers[i].flags & BUFFER_ZERO) != 0) zero(control.buffers[i]);
    }
    for (uint32_t i = 0; i < control.launch_count; ++i) run_launch(control, control.launches[i]);
    rest_helpers();
    fflush(stdout);
}

// ---- Start ----

static void map_buffers(ControlPage& control) {
    if (control.buffer_count > MAX_BUFFERS) fail(FAULT_PROTOCOL, "%u buffers", control.buffer_count);
    uint64_t addresses = GUARD_BYTES;
    for (uint32_t i = 0; i < control.buffer_count; ++i) addresses += control.buffers[i].mapped_bytes + GUARD_BYTES;
    char* next = static_cast<char*>(reserve(addresses)) + GUARD_BYTES;
    [[maybe_unused]] const uintptr_t start = reinterpret_cast<uintptr_t>(next) - GUARD_BYTES;
    for (uint32_t i = 0; i < control.buffer_count; ++i) {
        ControlPage::Buffer& buffer = control.buffers[i];
        if (buffer.data_offset > buffer.mapped_bytes || buffer.data_bytes > buffer.mapped_bytes - buffer.data_offset) {
            fail(FAULT_PROTOCOL, "buffer %u is not within its mapping", i);
        }
        const int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
        // Inputs are mapped read-only, so a kernel cannot change an input even if it restores it later.
        const int protection = (buffer.flags & BUFFER_READ_ONLY) != 0 ? PROT_READ : PROT_READ | PROT_WRITE;
        if (mmap(next, buffer.mapped_bytes, protection, flags, CONTROL_DESCRIPTOR, static_cast<off_t>(buffer.file_offset)) == MAP_FAILED) {
            fail(FAULT_PROTOCOL, "buffer %u could not be mapped", i);
        }
        buffer.address = reinterpret_cast<uint64_t>(next) + buffer.data_offset;
        next += buffer.mapped_bytes + GUARD_BYTES;
    }
#if defined(KFORGE_RACE)
    race_set_up(control, start, start + addresses);
#elif defined(KFORGE_BOUNDS)
    find_buffers(control, start, start + addresses, false);
#endif
}

// Runs before any constructor of the candidate. Does everything that needs system calls, because most of them are forbidden
// afterwards (confine.h).
static void set_up() {
#if defined(__linux__)
    kforge_confine_start();
#endif
    void* mapped = mmap(nullptr, sizeof(ControlPage), PROT_READ | PROT_WRITE, MAP_SHARED, CONTROL_DESCRIPTOR, 0);
    if (mapped == MAP_FAILED) _exit(FAULT_EXIT_CODE);
    ControlPage& control = *static_cast<ControlPage*>(mapped);
    if (control.magic != CONTROL_MAGIC || control.version != CONTROL_VERSION) _exit(FAULT_EXIT_CODE);
    control_page = &control;
    handle_signals();
    // Line-buffered, so that the output of a kernel that hangs or dies is visible. The buffer is our own, because libc would
    // otherwise query the type of the file (a system call) to choose one.
    static char printed[16 << 10];
    setvbuf(stdout, printed, _IOLBF, sizeof(printed));
    map_buffers(control);
    close(CONTROL_DESCRIPTOR);

    job.threads = control.threads == 0 ? 1 : control.threads;
    waits_asleep = control.waits_asleep != 0;
#if defined(KFORGE_INSPECTED)
    job.threads = 1;
#endif
#if defined(__GLIBC__)
    // Older versions of glibc read a file to choose the number of arenas.
    mallopt(M_ARENA_MAX, static_cast<int>(job.threads));
#endif
    find_machine();
    make_worker();
    for (uint32_t i = 1; i < job.threads; ++i) {
        pthread_t helper;
        if (pthread_create(&helper, nullptr, run_helper, reinterpret_cast<void*>(static_cast<uintptr_t>(i))) != 0) fail(FAULT_PROTOCOL, "failed to start thread %u of %u", i, job.threads);
        pthread_detach(helper);
    }
    rest_helpers();
    // Last, because threads inherit the allowed cores of the thread that starts them.
    pin_to_core(0);
#if defined(__linux__)
    confine_kernel();
#endif
}

#if defined(__linux__)
// Runs first, because this object is linked first.
__attribute__((section(".preinit_array"), used)) static void (*const set_up_first)() = set_up;
#endif

static void run() {
#if !defined(__linux__)
    set_up();
#endif
    for (const SharedVariable& variable : SharedVariables()) job.variable_bytes += variable.bytes;
    for (;;) {
        stop_process();
        run_plan(*control_page);
    }
}

}  // namespace kforge

int main() { kforge::run(); }
