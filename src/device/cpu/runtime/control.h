// The control page: the first bytes of the memory that the judge shares with the process that runs a candidate.
//
// The judge writes what to run; the process writes where it mapped each buffer, and its fault record. Fields are
// fixed-width and little-endian, and the judge mirrors this struct field by field. Nothing that the process writes here
// is ever trusted: candidate code shares its address space.

#pragma once

#include <stdint.h>

namespace kforge {

constexpr uint32_t CONTROL_MAGIC = 0x6b666f72;
constexpr uint32_t CONTROL_VERSION = 2;
constexpr uint32_t MAX_BUFFERS = 64;
constexpr uint32_t MAX_LAUNCHES = 32;
constexpr uint32_t MAX_ARGUMENTS = 1024;
constexpr uint32_t MAX_SITES = 256;
// Unmapped bytes before the first mapped byte of every buffer and behind its last.
constexpr uint64_t GUARD_BYTES = 1 << 20;
// The exit code of a process that found a fault itself, rather than dying by a signal.
constexpr int FAULT_EXIT_CODE = 70;
// The descriptor on which the shared memory arrives.
constexpr int CONTROL_DESCRIPTOR = 3;

constexpr uint32_t BUFFER_ZERO = 1;         // cleared at the start of every unit
constexpr uint32_t BUFFER_READ_ONLY = 2;    // an input that nothing may write
constexpr uint32_t BUFFER_UNWRITTEN = 4;    // holds nothing that a kernel may read before it has written it
constexpr uint32_t LAUNCH_COOPERATIVE = 1;  // refused: a block cannot wait for all others here
constexpr uint32_t ARGUMENT_BUFFER = 0;     // the address of a buffer, `bytes` behind its start
constexpr uint32_t ARGUMENT_BYTES = 1;      // the value itself

enum FaultKind : uint32_t {
    FAULT_NONE = 0,
    FAULT_SIGNAL = 1,
    FAULT_SYNC_ERROR = 2,
    FAULT_STACK_OVERFLOW = 3,
    FAULT_LIMIT_EXCEEDED = 4,
    FAULT_PROTOCOL = 5,
    FAULT_SHARED_BOUNDS = 6,
    // From here on found by the inspected builds only.
    FAULT_OUT_OF_BOUNDS = 7,
    FAULT_MISALIGNED = 8,
    FAULT_UNINITIALIZED_READ = 9,
    FAULT_RACE = 10,
    FAULT_UNDEFINED_BEHAVIOR = 11,
    FAULT_INPUT_MUTATED = 12,
};

// Flags of an access in a fault.
constexpr uint32_t ACCESS_WRITE = 1;
constexpr uint32_t ACCESS_ATOMIC = 2;
constexpr uint32_t ACCESS_SHARED = 4;  // the space: else global, or a variable of the kernel's own where no buffer is there
constexpr uint32_t ACCESS_VOLATILE = 8;

struct Control {
    uint32_t magic;
    uint32_t version;
    uint32_t threads;  // of the operating system, the first one included
    uint32_t buffer_count;
    uint32_t launch_count;
    uint32_t argument_count;
    uint64_t seed;  // of the schedule; blocks and threads run in order without one

    struct Buffer {
        uint64_t file_offset;
        uint64_t mapped_bytes;
        uint64_t data_offset;  // of the data within the mapping
        uint64_t data_bytes;
        uint64_t address;  // written by the process: where the data starts
        uint32_t flags;
        uint32_t reserved;
    } buffers[MAX_BUFFERS];

    struct Launch {
        uint32_t entry;
        uint32_t grid[3];
        uint32_t block[3];
        uint32_t shared_bytes;  // dynamic
        uint32_t first_argument;
        uint32_t argument_count;
        uint32_t flags;
        uint32_t reserved;
    } launches[MAX_LAUNCHES];

    struct Argument {
        uint32_t kind;
        uint32_t buffer;
        uint64_t bytes;
    } arguments[MAX_ARGUMENTS];

    struct Fault {
        uint32_t kind;
        uint32_t signal;
        uint64_t address;
        uint32_t block[3];
        uint32_t thread[3];
        char message[256];
        uint64_t site;        // the instruction behind the access or call; 0 where it is not known
        uint64_t other_site;  // of a race: the earlier access
        uint32_t other_block[3];
        uint32_t other_thread[3];
        uint32_t line;  // of the source, where the instrumentation tells it itself; else 0
        uint32_t bytes;
        uint32_t flags;
        uint32_t other_flags;
        uint64_t value;  // of a race between writes: before and after, as many bytes as the access has, at most 8
        uint64_t other_value;
    } fault;

    // What the race build saw of one load or store, over the warps that it looked at.
    struct Site {
        uint64_t site;
        uint32_t flags;  // those of an access
        uint32_t bytes;  // of one thread
        uint64_t lanes;  // accesses of single threads
        uint64_t lanes_seen;  // of those, the ones that the rest of this was counted over
        uint64_t requests;    // of whole warps
        uint64_t sectors;     // of 32 bytes; in shared memory: passes over the banks
        uint64_t sectors_least;  // as many as the same lanes would need side by side
        uint64_t strided;        // requests whose lanes lie at equal distances, other than side by side
    } sites[MAX_SITES];
    uint32_t site_count;
    uint32_t reserved;
    uint64_t threads_seen;   // whose accesses are counted in `sites`
    uint64_t threads_total;  // of all launches of the unit
};

static_assert(sizeof(Control::Buffer) == 48 && sizeof(Control::Launch) == 48 && sizeof(Control::Argument) == 16, "packed as the judge expects");
static_assert(sizeof(Control::Fault) == 368 && sizeof(Control::Site) == 64, "packed as the judge expects");
static_assert(sizeof(Control) == 32 + 48 * 64 + 48 * 32 + 16 * 1024 + 368 + 64 * 256 + 24, "packed as the judge expects");

}  // namespace kforge
