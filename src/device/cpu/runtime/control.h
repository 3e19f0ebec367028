// The control page: the first bytes of the memory that the judge shares with the process that runs a candidate.
//
// The judge writes what to run. The process writes the address of each buffer, its fault record and its access counts.
// Fields are fixed-width and little-endian. `control_page.rs` mirrors this struct field by field, and a test there
// compares every constant with this file. The judge never trusts what the process writes here: candidate code shares the
// address space.

#pragma once

#include <stdint.h>

namespace kforge {

constexpr uint32_t CONTROL_MAGIC = 0x6b666f72;
constexpr uint32_t CONTROL_VERSION = 4;
constexpr uint32_t MAX_BUFFERS = 64;
constexpr uint32_t MAX_LAUNCHES = 32;
constexpr uint32_t MAX_ARGUMENTS = 1024;
constexpr uint32_t MAX_SITES = 256;
// Unmapped bytes before the first and after the last mapped byte of every buffer.
constexpr uint64_t GUARD_BYTES = 1 << 20;
// Exit code of a process that detected a fault itself instead of dying from a signal.
constexpr int FAULT_EXIT_CODE = 70;
// File descriptor on which the process receives the shared memory.
constexpr int CONTROL_DESCRIPTOR = 3;

constexpr uint32_t BUFFER_ZERO = 1;         // cleared at the start of every run of the plan
constexpr uint32_t BUFFER_READ_ONLY = 2;    // an input, mapped read-only
constexpr uint32_t BUFFER_UNWRITTEN = 4;    // a kernel must write an element before it reads it
constexpr uint32_t LAUNCH_COOPERATIVE = 1;  // refused: a block cannot wait for all other blocks here
constexpr uint32_t ARGUMENT_BUFFER = 0;     // the address of a buffer plus `bytes`
constexpr uint32_t ARGUMENT_BYTES = 1;      // the value itself

// The bit of the seed that chooses the value of a lane that takes no part in a shuffle.
constexpr uint64_t SEED_ABSENT_BIT = 0x8000000000000000;
// Why a lane took no part.
constexpr uint32_t ABSENT_EXITED = 1;
constexpr uint32_t ABSENT_UNNAMED = 2;

// What a process detected. `FaultKind` in control_page.rs has the same names and values.
enum FaultKind : uint32_t {
    FAULT_NONE = 0,
    FAULT_SIGNAL = 1,
    FAULT_SYNC_ERROR = 2,
    FAULT_STACK_OVERFLOW = 3,
    FAULT_LIMIT_EXCEEDED = 4,
    FAULT_PROTOCOL = 5,
    FAULT_SHARED_BOUNDS = 6,
    // The faults below are detected by the bounds and race builds only.
    FAULT_OUT_OF_BOUNDS = 7,
    FAULT_MISALIGNED = 8,
    FAULT_UNINITIALIZED_READ = 9,
    FAULT_RACE = 10,
    FAULT_UNDEFINED_BEHAVIOR = 11,
    FAULT_INPUT_MUTATED = 12,
    // Detected by every build: code that the backend replaced by a call of the runtime.
    FAULT_UNSUPPORTED = 13,
    FAULT_REJECTED = 14,
};

// Flags of a memory access in a fault record or an access site.
constexpr uint32_t ACCESS_WRITE = 1;
constexpr uint32_t ACCESS_ATOMIC = 2;
constexpr uint32_t ACCESS_SHARED = 4;  // shared memory; without it: a buffer, or else a variable of the kernel
constexpr uint32_t ACCESS_VOLATILE = 8;

struct ControlPage {
    uint32_t magic;
    uint32_t version;
    uint32_t threads;  // operating system threads, including the first
    uint32_t buffer_count;
    uint32_t launch_count;
    uint32_t argument_count;
    uint64_t seed;  // of the race build's schedule, and SEED_ABSENT_BIT

    struct Buffer {
        uint64_t file_offset;
        uint64_t mapped_bytes;
        uint64_t data_offset;  // start of the data within the mapping
        uint64_t data_bytes;
        uint64_t address;  // written by the process: address of the data
        uint32_t flags;
        uint32_t reserved;
    } buffers[MAX_BUFFERS];

    struct Launch {
        uint32_t entry;
        uint32_t grid[3];
        uint32_t block[3];
        uint32_t shared_bytes;  // dynamic shared memory
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
        uint64_t site;        // address just past the access or call; 0 if unknown
        uint64_t other_site;  // in a race: the earlier access
        uint32_t other_block[3];
        uint32_t other_thread[3];
        uint32_t line;  // source line, if the instrumentation reports it; else 0
        uint32_t bytes;
        uint32_t flags;
        uint32_t other_flags;
        uint64_t value;  // in a race between two writes: the value before and after; at most 8 bytes
        uint64_t other_value;
    } fault;

    // Counts for one load or store instruction, over the warps that the race build sampled.
    struct Site {
        uint64_t site;
        uint32_t flags;  // ACCESS_*
        uint32_t bytes;  // per thread
        uint64_t lanes;  // accesses by single threads
        uint64_t sampled_lanes;  // those of them that the counts below cover
        uint64_t requests;       // of whole warps
        uint64_t sectors;        // of 32 bytes; in shared memory: passes over the banks
        uint64_t min_sectors;    // sectors that the same lanes need if their data is contiguous
        uint64_t strided;        // requests whose lanes have a constant stride other than 1
    } sites[MAX_SITES];
    uint32_t site_count;
    uint32_t waits_asleep;  // written by the judge: whether threads sleep while they wait, in a process that is never timed
    uint64_t sampled_threads;  // threads whose accesses are counted in `sites`
    uint64_t total_threads;    // threads of all launches of the plan

    // The first shuffle that read a lane which took no part. Written by the bounds and race builds only.
    struct AbsentRead {
        uint64_t site;
        uint32_t block[3];
        uint32_t thread[3];
        uint32_t lane;    // that was read
        uint32_t reason;  // ABSENT_*; 0: there was no such shuffle
    } absent_read;
};

static_assert(sizeof(ControlPage::Buffer) == 48 && sizeof(ControlPage::Launch) == 48 && sizeof(ControlPage::Argument) == 16, "the layout must match control_page.rs");
static_assert(sizeof(ControlPage::Fault) == 368 && sizeof(ControlPage::Site) == 64 && sizeof(ControlPage::AbsentRead) == 40, "the layout must match control_page.rs");
static_assert(sizeof(ControlPage) == 32 + 48 * 64 + 48 * 32 + 16 * 1024 + 368 + 64 * 256 + 24 + 40, "the layout must match control_page.rs");

}  // namespace kforge
