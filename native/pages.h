// Memory for a network's weights and maps, in large pages where the system has them. Each run reads all weights once, 14 MB of
// them at width 1: in pages of 4 KB that is 3,500 translations that the processor has long forgotten since the run before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mobilenetv2 {

constexpr std::size_t CACHE_LINE = 64;

inline std::size_t rounded_up(std::size_t bytes, std::size_t to = CACHE_LINE) { return (bytes + to - 1) / to * to; }

class Pages {
  public:
    // Room for so many, from the beginning of a line on, with whatever was there. It lives as long as this does, and is in
    // memory when it is first written. Throws std::bad_alloc.
    template <typename N>
    std::span<N> take(std::size_t count) {
        if (count > PTRDIFF_MAX / 2 / sizeof(N)) throw std::bad_alloc();
        const std::size_t bytes = rounded_up(count * sizeof(N));
        if (bytes > left_) {
            left_ = std::max(rounded_up(bytes, PAGE), CHUNK);
            chunks_.emplace_back(static_cast<std::byte*>(::operator new(left_, std::align_val_t{PAGE})));
            at_ = chunks_.back().get();
#if defined(__linux__)
            // An advice: where it is not taken, pages are small.
            madvise(at_, left_, MADV_HUGEPAGE);
#endif
        }
        left_ -= bytes;
        return {reinterpret_cast<N*>(std::exchange(at_, at_ + bytes)), count};
    }

  private:
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
    // Of a chunk only those pages are in memory that something was taken from.
    static constexpr std::size_t PAGE = 2 << 20, CHUNK = 8 * PAGE;
#else
    // Elsewhere nothing is gained; and AddressSanitizer sees what goes over the end of a chunk.
    static constexpr std::size_t PAGE = CACHE_LINE, CHUNK = 0;
#endif
    struct Free {
        void operator()(std::byte* chunk) const { ::operator delete(chunk, std::align_val_t{PAGE}); }
    };
    std::vector<std::unique_ptr<std::byte, Free>> chunks_;
    std::byte* at_ = nullptr;
    std::size_t left_ = 0;
};

}  // namespace mobilenetv2
