// Copies by a whole group. A copy is complete for the calling thread when the call returns; `wait` makes all copies visible to
// the whole group.

#pragma once

#include <cuda/kforge_copies>

namespace cooperative_groups {

// The size is in bytes.
template <typename Group, typename To, typename From>
inline void memcpy_async(const Group& group, To* to, const From* from, size_t bytes) {
    ::cuda::kforge_details::copy(to, from, bytes, group.thread_rank(), group.size());
}
// The size is in elements: the smaller of the two layouts.
template <typename Group, typename Element>
inline void memcpy_async(const Group& group, Element* to, size_t to_count, const Element* from, size_t from_count) {
    memcpy_async(group, to, from, (to_count < from_count ? to_count : from_count) * sizeof(Element));
}

}  // namespace cooperative_groups
