// Copies that a group makes together: done when the call returns; `wait` makes all of them visible to all of the group.

#pragma once

#include <cuda/kforge_copies>

namespace cooperative_groups {

// In bytes.
template <typename Group, typename To, typename From>
inline void memcpy_async(const Group& group, To* to, const From* from, size_t bytes) {
    ::cuda::kforge_details::copy(to, from, bytes, group.thread_rank(), group.size());
}
// In elements: as many as both layouts hold.
template <typename Group, typename Element>
inline void memcpy_async(const Group& group, Element* to, size_t to_count, const Element* from, size_t from_count) {
    memcpy_async(group, to, from, (to_count < from_count ? to_count : from_count) * sizeof(Element));
}

}  // namespace cooperative_groups
