// Counts how a kernel uses memory: sectors per request of each load and store, shared-memory bank conflicts, bytes moved.
//
// A request is one instruction executed by the lanes of a warp. Lanes run one after the other here, so the n-th execution of
// an instruction by each lane counts as one request. Only the first few requests of each instruction are sampled, in a few
// blocks of every launch. Sectors of 32 bytes and 32 banks of 4 bytes are those of NVIDIA GPUs since Maxwell.
// Used by the race build only; the counts are feedback, never part of a verdict's status.

#pragma once

#include <stdint.h>
#include <string.h>

#include <new>
#include <unordered_map>
#include <vector>

#include "block.h"
#include "regions.h"

namespace kforge {

constexpr uint32_t SAMPLED_REQUESTS = 16;  // per instruction and warp
constexpr uint32_t SAMPLED_BLOCKS = 4;
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

struct AccessCounts {
    bool counting;
    uint64_t sampled_blocks[SAMPLED_BLOCKS];
    uint32_t sampled_block_count;
    uint32_t block_threads;
    std::vector<std::unordered_map<uintptr_t, SiteLog>> warps;
    std::unordered_map<uintptr_t, uint32_t> slots;  // index in `ControlPage::sites`, by site
};

// Storage without automatic construction: the process is set up before constructors run, and they must not overwrite it.
template <typename T>
union ManualLifetime {
    constexpr ManualLifetime() : unused() {}
    ~ManualLifetime() {}
    char unused;
    T value;
};
static ManualLifetime<AccessCounts> access_counts_storage;
static AccessCounts& access_counts = access_counts_storage.value;

static void count_access(const Access& access, uint32_t thread) {
    SiteLog& log = access_counts.warps[thread / LANES][access.site];
    log.flags = access.flags;
    log.bytes = access.bytes;
    ++log.accesses;
    const uint32_t lane = thread % LANES;
    const uint32_t execution = log.executions[lane]++;
    if (execution >= SAMPLED_REQUESTS) return;
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
            bool is_known = false;
            for (uint32_t i = count; i-- != 0 && !is_known;) is_known = found[i] == sector;
            if (!is_known && count < LANES * 2) found[count++] = sector;
        }
    }
    return count;
}

// Passes over the banks. One pass serves 32 lanes for 4 bytes each, half a warp for 8, a quarter for 16.
static uint32_t passes_of(const Request& request, uint32_t bytes, uint32_t& min_passes) {
    const uint32_t lanes_per_pass = bytes <= 4 ? LANES : bytes <= 8 ? LANES / 2 : LANES / 4;
    uint32_t passes = 0;
    for (uint32_t first = 0; first < LANES; first += lanes_per_pass) {
        uintptr_t words[BANKS][LANES];
        uint32_t counts[BANKS] = {};
        uint32_t max_in_bank = 0;
        for (uint32_t lane = first; lane < first + lanes_per_pass; ++lane) {
            if ((request.lanes >> lane & 1) == 0) continue;
            const uintptr_t address = request.addresses[lane];
            for (uintptr_t word = address / BANK_BYTES; word <= (address + bytes - 1) / BANK_BYTES; ++word) {
                const uint32_t bank = word % BANKS;
                bool is_known = false;
                for (uint32_t i = 0; i < counts[bank] && !is_known; ++i) is_known = words[bank][i] == word;
                if (!is_known && counts[bank] < LANES) words[bank][counts[bank]++] = word;
                if (counts[bank] > max_in_bank) max_in_bank = counts[bank];
            }
        }
        passes += max_in_bank;
        min_passes += max_in_bank != 0;
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

static void add_to_site(uintptr_t site, const SiteLog& log) {
    ControlPage& control = *control_page;
    const auto slot = access_counts.slots.emplace(site, static_cast<uint32_t>(access_counts.slots.size()));
    if (slot.first->second >= MAX_SITES) return;
    ControlPage::Site& sum = control.sites[slot.first->second];
    if (slot.second) {
        memset(&sum, 0, sizeof(sum));
        control.site_count = slot.first->second + 1;
    }
    sum.site = site;
    sum.flags = log.flags;
    sum.bytes = log.bytes;
    sum.lanes += log.accesses;
    for (const Request& request : log.requests) {
        const uint32_t lanes = static_cast<uint32_t>(__builtin_popcount(request.lanes));
        if (lanes == 0) continue;
        sum.sampled_lanes += lanes;
        ++sum.requests;
        if ((log.flags & ACCESS_SHARED) != 0) {
            uint32_t min_passes = 0;
            sum.sectors += passes_of(request, log.bytes, min_passes);
            sum.min_sectors += min_passes;
        } else {
            const uint32_t sectors = sectors_of(request, log.bytes);
            const uint32_t min_sectors = (lanes * log.bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
            sum.sectors += sectors;
            // Lanes that read the same address need fewer.
            sum.min_sectors += sectors < min_sectors ? sectors : min_sectors;
            sum.strided += sectors > min_sectors + 1 && is_strided(request);
        }
    }
}

static void end_counting() {
    if (!access_counts.counting) return;
    access_counts.counting = false;
    for (const auto& warp : access_counts.warps) {
        for (const auto& [site, log] : warp) add_to_site(site, log);
    }
    control_page->sampled_threads += access_counts.block_threads;
    access_counts.warps.clear();
}

static void begin_counting(uint64_t block, uint32_t warps) {
    end_counting();
    for (uint32_t i = 0; i < access_counts.sampled_block_count; ++i) {
        if (access_counts.sampled_blocks[i] != block) continue;
        access_counts.counting = true;
        access_counts.warps.resize(warps);
    }
}

// Samples the first block, the last one, and some in between.
static void choose_sampled_blocks(uint64_t blocks, uint32_t threads) {
    access_counts.sampled_block_count = 0;
    access_counts.block_threads = threads;
    control_page->total_threads += blocks * threads;
    const uint64_t count = blocks < SAMPLED_BLOCKS ? blocks : SAMPLED_BLOCKS;
    for (uint64_t i = 0; i < count; ++i) access_counts.sampled_blocks[access_counts.sampled_block_count++] = count == 1 ? 0 : i * (blocks - 1) / (count - 1);
}

}  // namespace kforge
