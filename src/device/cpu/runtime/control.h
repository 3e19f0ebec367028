// The control page: the first bytes of the memory that the judge shares with the process that runs a candidate.
//
// The judge writes what to run; the process writes where it mapped each buffer, and its fault record. Fields are
// fixed-width and little-endian, and the judge mirrors this struct field by field. Nothing that the process writes here
// is ever trusted: candidate code shares its address space.

#pragma once

#include <stdint.h>

namespace kforge {

constexpr uint32_t CONTROL_MAGIC = 0x6b666f72;
constexpr uint32_t CONTROL_VERSION = 1;
constexpr uint32_t MAX_BUFFERS = 64;
constexpr uint32_t MAX_LAUNCHES = 32;
constexpr uint32_t MAX_ARGUMENTS = 1024;
// Unmapped bytes before the first mapped byte of every buffer and behind its last.
constexpr uint64_t GUARD_BYTES = 1 << 20;
// The exit code of a process that found a fault itself, rather than dying by a signal.
constexpr int FAULT_EXIT_CODE = 70;
// The descriptor on which the shared memory arrives.
constexpr int CONTROL_DESCRIPTOR = 3;

constexpr uint32_t BUFFER_ZERO = 1;         // cleared at the start of every unit
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
};

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
    } fault;
};

static_assert(sizeof(Control::Buffer) == 48 && sizeof(Control::Launch) == 48 && sizeof(Control::Argument) == 16, "packed as the judge expects");
static_assert(sizeof(Control) == 32 + 48 * 64 + 48 * 32 + 16 * 1024 + 296, "packed as the judge expects");

}  // namespace kforge
