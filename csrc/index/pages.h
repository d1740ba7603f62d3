// Large arrays: on huge pages where the system has them, because tables are read at random places.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hashfast::index {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Uninitialised memory for n values.
template <class T>
class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t n) : size_(n) {
    constexpr size_t kHugePage = size_t{1} << 21;
    const size_t bytes = static_cast<size_t>(n > 0 ? n : 1) * sizeof(T);
    const size_t unit = bytes >= kHugePage ? kHugePage : 64;
    void* const memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (!memory) throw std::bad_alloc();
    memory_.reset(static_cast<T*>(memory));
#ifdef __linux__
    if (unit == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish, no more
#endif
  }

  T* data() const { return memory_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) const { return memory_.get()[i]; }
  // Hands the memory over to whoever frees it with std::free.
  T* release() { return memory_.release(); }

 private:
  std::unique_ptr<T, Free> memory_;
  int64_t size_ = 0;
};

}  // namespace hashfast::index
