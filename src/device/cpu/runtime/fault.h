// Fault records: writes the first fault to the control page as evidence, then ends the process.
//
// The record is meant for a person. The judge decides from how the process ended, never from this record. Nothing here
// resumes a kernel after a fault.

#pragma once

#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "confine.h"
#include "control.h"
#include "fiber.h"

namespace kforge {

// A thread's index in its block (or a block's index in its grid), and its lane.
struct ThreadPosition {
    uint32_t x, y, z;
    uint32_t lane;
};

inline ControlPage* control_page = nullptr;

// What the current operating system thread runs, for the signal handler.
struct FaultContext {
    const StackPool* stacks;
    const char* shared_end;  // start of the guard after dynamic shared memory
    size_t shared_guard_bytes;
    const uint32_t* block;   // three indices
    const uint32_t* thread;  // three indices
};
static __thread FaultContext fault_context;

// Called before a fault is recorded, because a more important fault may already be pending. Does not return if one is.
inline void (*before_fault)(FaultKind kind) = nullptr;

// Only the first fault is recorded: later ones are mostly its consequences.
inline bool claim_fault() {
    static uint32_t claimed = 0;
    return control_page != nullptr && __atomic_exchange_n(&claimed, 1, __ATOMIC_ACQ_REL) == 0;
}

inline void record_position(ControlPage::Fault& fault) {
    if (fault_context.block != nullptr) memcpy(fault.block, fault_context.block, sizeof(fault.block));
    if (fault_context.thread != nullptr) memcpy(fault.thread, fault_context.thread, sizeof(fault.thread));
}

inline __attribute__((format(printf, 2, 0))) void record_fault(FaultKind kind, const char* format, va_list arguments) {
    if (before_fault != nullptr) before_fault(kind);
    if (claim_fault()) {
        ControlPage::Fault& fault = control_page->fault;
        record_position(fault);
        vsnprintf(fault.message, sizeof(fault.message), format, arguments);
        fflush(stdout);
        __atomic_store_n(&fault.kind, kind, __ATOMIC_RELEASE);
    } else if (control_page != nullptr) {
        // Another thread is writing the record and will end the process.
        for (int waited = 0; waited < 1000 && control_page->fault.kind == FAULT_NONE; ++waited) usleep(100);
    }
}

// Ends the process for a fault that the runtime detects itself. The exit code tells the judge that there is a record.
[[noreturn]] inline __attribute__((format(printf, 2, 3))) void fail(FaultKind kind, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(kind, format, arguments);
    va_end(arguments);
    _exit(FAULT_EXIT_CODE);
}

// As `raise`, which reads the signal mask in some C libraries: a kernel may not.
inline void raise_here(int signal) {
#if defined(__linux__)
    system_call(__NR_tgkill, system_call(__NR_getpid), system_call(__NR_gettid), signal);
#else
    raise(signal);
#endif
}

// Ends the process for a kernel that stops itself (`__trap`, `assert`).
[[noreturn]] inline __attribute__((format(printf, 1, 2))) void abort_kernel(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record_fault(FAULT_SIGNAL, format, arguments);
    va_end(arguments);
    raise_here(SIGABRT);
    _exit(FAULT_EXIT_CODE);
}

// Ends the process with a signal that was handled. No handler can be changed at this point: the seccomp filter forbids it.
inline void end_with_signal(int signal, const siginfo_t* info, [[maybe_unused]] void* context) {
#if defined(__linux__)
    if (signal == SIGABRT || signal == SIGTRAP) {
        // SA_RESETHAND has already removed its handler.
        raise_here(signal);
    } else if (signal == SIGSYS) {
        // A refused system call while SIGSYS is blocked makes the kernel end the process with SIGSYS.
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGSYS);
        sigprocmask(SIG_BLOCK, &blocked, nullptr);
        system_call(__NR_getppid);
    } else if (info->si_code > 0) {
        // The same holds for a fault: returning repeats the instruction while the signal is blocked.
        sigaddset(&static_cast<ucontext_t*>(context)->uc_sigmask, signal);
        return;
    }
    // The signal was sent by a process, not raised by an instruction.
    _exit(FAULT_EXIT_CODE);
#else
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
    if (info->si_code <= 0 || signal == SIGTRAP) raise(signal);
#endif
}

// Calls only async-signal-safe functions.
inline void on_signal(int signal, siginfo_t* info, [[maybe_unused]] void* context) {
    if (claim_fault()) {
        ControlPage::Fault& fault = control_page->fault;
        const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
        const FaultContext& where = fault_context;
        const uintptr_t shared_end = reinterpret_cast<uintptr_t>(where.shared_end);
        FaultKind kind = FAULT_SIGNAL;
        const char* message = "";
        if (signal == SIGSEGV || signal == SIGBUS) {
            fault.address = address;
            if (where.stacks != nullptr && where.stacks->in_guard(address)) {
                kind = FAULT_STACK_OVERFLOW;
                message = "a thread needs more than 64 KiB of stack for its local variables";
            } else if (shared_end != 0 && address >= shared_end && address < shared_end + where.shared_guard_bytes) {
                kind = FAULT_SHARED_BOUNDS;
                message = "an access past the end of dynamic shared memory";
            } else if (info->si_code > 0 && address == 0 && info->si_code != SEGV_MAPERR && info->si_code != SEGV_ACCERR) {
                message = "a misaligned vector access or an invalid pointer";
            }
        } else if (signal == SIGFPE) {
            message = "an integer was divided by zero, or the quotient does not fit";
#if defined(__linux__)
        } else if (signal == SIGSYS) {
            fault.address = static_cast<uint64_t>(info->si_syscall);
#endif
        }
        record_position(fault);
#if defined(__x86_64__) && defined(__linux__)
        // One byte past the start of the instruction, as a return address is past its call.
        if (info->si_code > 0) fault.site = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]) + 1;
#endif
        fault.signal = static_cast<uint32_t>(signal);
        // abort() and failed assertions have already written a better message.
        if (fault.message[0] == 0) strncpy(fault.message, message, sizeof(fault.message) - 1);
        __atomic_store_n(&fault.kind, kind, __ATOMIC_RELEASE);
    } else if (control_page != nullptr) {
        // Another thread is writing the record and will end the process.
        for (int waited = 0; waited < 1000 && control_page->fault.kind == FAULT_NONE; ++waited) usleep(100);
    }
    end_with_signal(signal, info, context);
}

inline void handle_signals() {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_signal;
    sigemptyset(&action.sa_mask);
    constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGABRT, SIGTRAP};
    for (int signal : SIGNALS) {
        // `end_with_signal` raises these two again, so their handler must be gone by then.
        const bool once = signal == SIGABRT || signal == SIGTRAP;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (once ? SA_RESETHAND : 0);
        sigaction(signal, &action, nullptr);
    }
}

// Sets an alternate signal stack: after a stack overflow the normal stack has no room for a handler.
inline void handle_signals_apart(void* stack, size_t bytes) {
    stack_t alternate;
    memset(&alternate, 0, sizeof(alternate));
    alternate.ss_sp = stack;
    alternate.ss_size = bytes;
    sigaltstack(&alternate, nullptr);
}

}  // namespace kforge
