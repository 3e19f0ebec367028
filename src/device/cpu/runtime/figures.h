// How a kernel uses memory: sectors per request of each load and store, conflicts over banks, bytes moved.
//
// A request is what the lanes of a warp ask for with one instruction. Lanes run one after the other here, so the n-th
// execution of an instruction by each lane of a warp counts as one request; the first few of each are looked at, in a few
// blocks of every launch. Sectors of 32 bytes and 32 banks of 4 bytes are those of NVIDIA's GPUs since Maxwell.

#pragma once

#include <stdint.h>
#include <string.h>

#include <new>
#include <unordered_map>
#include <vector>

#include "block.h"
#include "regions.h"

namespace kforge {

constexpr uint32_t REQUESTS_SEEN = 16;  // of one instruction in one warp
constexpr uint32_t BLOCKS_SEEN = 4;
constexpr uint32_t SECTOR_BYTES = 32;
constexpr uint32_t BANKS = 32;
constexpr uint32_t BANK_BYTES = 4;

struct Request {
    uint32_t lanes;
    uintptr_t addresses[LANES];
};

struct SiteLog {
    uint32_t flags;
    uint32_t bytes;
    uint64_t accesses;
    uint32_t executions[LANES];
    std::vector<Request> requests;
};

struct Figures {
    bool counting;
    uint64_t wanted[BLOCKS_SEEN];
    uint32_t wanted_count;
    uint32_t block_threads;
    std::vector<std::unordered_map<uintptr_t, SiteLog>> warps;
    std::unordered_map<uintptr_t, uint32_t> slots;  // in the control page
};

// The process is made ready before constructors run, so nothing here may wait for its own.
template <typename T>
union Unbuilt {
    constexpr Unbuilt() : nothing() {}
    ~Unbuilt() {}
    char nothing;
    T value;
};
static Unbuilt<Figures> figures_storage;
static Figures& figures = figures_storage.value;

static void count(const Access& access, uint32_t thread) {
    SiteLog& log = figures.warps[thread / LANES][access.site];
    log.flags = access.flags;
    log.bytes = access.bytes;
    ++log.accesses;
    const uint32_t lane = thread % LANES;
    const uint32_t execution = log.executions[lane]++;
    if (execution >= REQUESTS_SEEN) return;
    if (execution >= log.requests.size()) log.requests.resize(execution + 1);
    Request& request = log.requests[execution];
    request.lanes |= 1u << lane;
    request.addresses[lane] = access.address;
}

static uint32_t sectors_of(const Request& request, uint32_t bytes) {
    uintptr_t found[LANES * 2];
    uint32_t count = 0;
    for (uint32_t rest = request.lanes; rest != 0; rest &= rest - 1) {
        const uintptr_t address = request.addresses[__builtin_ctz(rest)];
        for (uintptr_t sector = address / SECTOR_BYTES; sector <= (address + bytes - 1) / SECTOR_BYTES; ++sector) {
            bool known = false;
            for (uint32_t i = count; i-- != 0 && !known;) known = found[i] == sector;
            if (!known && count < LANES * 2) found[count++] = sector;
        }
    }
    return count;
}

// Lanes that the banks serve at once: all for 4 bytes, half a warp for 8, a quarter for 16.
static uint32_t passes_of(const Request& request, uint32_t bytes, uint32_t& least) {
    const uint32_t together = bytes <= 4 ? LANES : bytes <= 8 ? LANES / 2 : LANES / 4;
    uint32_t passes = 0;
    for (uint32_t first = 0; first < LANES; first += together) {
        uintptr_t words[BANKS][LANES];
        uint32_t counts[BANKS] = {};
        uint32_t most = 0;
        for (uint32_t lane = first; lane < first + together; ++lane) {
            if ((request.lanes >> lane & 1) == 0) continue;
            const uintptr_t address = request.addresses[lane];
            for (uintptr_t word = address / BANK_BYTES; word <= (address + bytes - 1) / BANK_BYTES; ++word) {
                const uint32_t bank = word % BANKS;
                bool known = false;
                for (uint32_t i = 0; i < counts[bank] && !known; ++i) known = words[bank][i] == word;
                if (!known && counts[bank] < LANES) words[bank][counts[bank]++] = word;
                if (counts[bank] > most) most = counts[bank];
            }
        }
        passes += most;
        least += most != 0;
    }
    return passes;
}

static bool is_strided(const Request& request) {
    uint32_t previous = LANES;
    intptr_t stride = 0;
    for (uint32_t rest = request.lanes; rest != 0; rest &= rest - 1) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(rest));
        if (previous != LANES) {
            const intptr_t step = static_cast<intptr_t>(request.addresses[lane] - request.addresses[previous]) / static_cast<intptr_t>(lane - previous);
            if (stride != 0 && step != stride) return false;
            stride = step;
        }
        previous = lane;
    }
    return true;
}

static void add_up(uintptr_t site, const SiteLog& log) {
    Control& control = *control_page;
    const auto place = figures.slots.emplace(site, static_cast<uint32_t>(figures.slots.size()));
    if (place.first->second >= MAX_SITES) return;
    Control::Site& sum = control.sites[place.first->second];
    if (place.second) {
        memset(&sum, 0, sizeof(sum));
        control.site_count = place.first->second + 1;
    }
    sum.site = site;
    sum.flags = log.flags;
    sum.bytes = log.bytes;
    sum.lanes += log.accesses;
    for (const Request& request : log.requests) {
        const uint32_t lanes = static_cast<uint32_t>(__builtin_popcount(request.lanes));
        if (lanes == 0) continue;
        sum.lanes_seen += lanes;
        ++sum.requests;
        if ((log.flags & ACCESS_SHARED) != 0) {
            uint32_t least = 0;
            sum.sectors += passes_of(request, log.bytes, least);
            sum.sectors_least += least;
        } else {
            const uint32_t sectors = sectors_of(request, log.bytes);
            const uint32_t least = (lanes * log.bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
            sum.sectors += sectors;
            // Lanes that read the same address need less.
            sum.sectors_least += sectors < least ? sectors : least;
            sum.strided += sectors > least + 1 && is_strided(request);
        }
    }
}

static void end_figures() {
    if (!figures.counting) return;
    figures.counting = false;
    for (const auto& warp : figures.warps) {
        for (const auto& [site, log] : warp) add_up(site, log);
    }
    control_page->threads_seen += figures.block_threads;
    figures.warps.clear();
}

static void begin_figures(uint64_t block, uint32_t warps) {
    end_figures();
    for (uint32_t i = 0; i < figures.wanted_count; ++i) {
        if (figures.wanted[i] != block) continue;
        figures.counting = true;
        figures.warps.resize(warps);
    }
}

// The first block, the last, and some between.
static void choose_figures(uint64_t blocks, uint32_t threads) {
    figures.wanted_count = 0;
    figures.block_threads = threads;
    control_page->threads_total += blocks * threads;
    const uint64_t count = blocks < BLOCKS_SEEN ? blocks : BLOCKS_SEEN;
    for (uint64_t i = 0; i < count; ++i) figures.wanted[figures.wanted_count++] = count == 1 ? 0 : i * (blocks - 1) / (count - 1);
}

}  // namespace kforge
