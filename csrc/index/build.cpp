#include "build.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "threads.h"

namespace hashfast::index {
namespace {

// Buckets that a thread fills at a time hold about the same number of entries.
constexpr int64_t kSharesAThread = 4;

// First buckets of consecutive shares of all entries, and the number of buckets.
std::vector<int64_t> shares_of(const Pages<uint32_t>& limits, int64_t shares) {
  const int64_t buckets = limits.size() - 1, entries = limits[buckets];
  std::vector<int64_t> firsts{0};
  for (int64_t share = 1; share < shares; ++share) {
    const auto* const at = std::lower_bound(limits.data(), limits.data() + buckets,
                                            static_cast<uint32_t>(entries * share / shares));
    firsts.push_back(std::max<int64_t>(firsts.back(), at - limits.data()));
  }
  firsts.push_back(buckets);
  return firsts;
}

template <int64_t Bytes>
class Builder {
 public:
  Builder(int64_t bytes, int64_t threads) : bytes_(bytes), threads_(threads) {}

  // Sorts n codes stably by a substring: counts, then places. value(i) is that of code i.
  template <class Value>
  BuiltTable sort(const uint8_t* codes, int64_t n, const Substring& part, bool copies,
                  Value&& value) const {
    BuiltTable table{count(codes, n, part), Pages<uint8_t>(copies ? n * size() : 0),
                     Pages<uint32_t>(n)};
    const int64_t shares = threads_ > 1 ? threads_ : 1;
    const std::vector<int64_t> firsts = shares_of(table.limits, shares);
    // Each thread reads all codes and places those of its own buckets: nothing is shared.
    parallel(shares, threads_, [&](int64_t share) {
      const uint32_t begin = static_cast<uint32_t>(firsts[share]);
      const uint32_t buckets = static_cast<uint32_t>(firsts[share + 1]) - begin;
      Pages<uint32_t> next(buckets);
      std::copy_n(table.limits.data() + begin, buckets, next.data());
      for (int64_t i = 0; i < n; ++i) {
        const uint8_t* const code = codes + i * size();
        const uint32_t bucket = part.of<Bytes>(code, size()) - begin;
        if (bucket >= buckets) continue;
        const int64_t place = next[bucket]++;
        if (copies) std::memcpy(table.codes.data() + place * size(), code, size());
        table.values[place] = value(i);
      }
    });
    return table;
  }

  // Makes equal codes of a table, whose values are rows, one entry each.
  void collapse(BuiltTable& table, Built& built) const {
    const std::vector<int64_t> firsts = shares_of(table.limits, threads_ * kSharesAThread);
    const int64_t shares = static_cast<int64_t>(firsts.size()) - 1;
    std::vector<Share> found(shares);
    parallel(shares, threads_, [&](int64_t share) {
      found[share] = distinct(table, firsts[share], firsts[share + 1]);
    });
    if (std::all_of(found.begin(), found.end(), [](const Share& s) { return s.rows.empty(); }))
      return;
    join(table, firsts, found, built);
  }

 private:
  // What became of the buckets of a share, whose entries now stand at its front.
  struct Share {
    int64_t entries = 0;
    std::vector<uint32_t> sizes;         // entries of each bucket
    std::vector<uint32_t> groups, rows;  // size of each group, and their rows
  };

  int64_t size() const { return Bytes ? Bytes : bytes_; }

  Pages<uint32_t> count(const uint8_t* codes, int64_t n, const Substring& part) const {
    const int64_t buckets = int64_t{1} << part.width();
    Pages<uint32_t> limits(buckets + 1);
    std::fill_n(limits.data(), buckets + 1, 0);
    for (int64_t i = 0; i < n; ++i) ++limits[part.of<Bytes>(codes + i * size(), size()) + 1];
    std::partial_sum(limits.data(), limits.data() + buckets + 1, limits.data());
    return limits;
  }

  // Rows of a bucket sorted by code and row; entries moved to the front of the share.
  Share distinct(BuiltTable& table, int64_t first, int64_t last) const {
    Share share;
    share.sizes.resize(last - first);
    uint8_t* const codes = table.codes.data();
    int64_t to = table.limits[first];
    const int64_t begin = to;
    std::vector<uint32_t> order, values;
    std::vector<uint8_t> kept;
    for (int64_t bucket = first; bucket < last; ++bucket) {
      const int64_t from = table.limits[bucket], n = table.limits[bucket + 1] - from;
      const uint8_t* const here = codes + from * size();
      order.resize(n);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        const int apart = compare(here + a * size(), here + b * size());
        return apart ? apart < 0 : a < b;  // places are in the order of rows
      });
      kept.clear();
      values.clear();
      for (int64_t i = 0, next; i < n; i = next) {
        const uint8_t* const code = here + order[i] * size();
        for (next = i + 1; next < n && !compare(code, here + order[next] * size());) ++next;
        kept.insert(kept.end(), code, code + size());
        if (next == i + 1) {
          values.push_back(table.values[from + order[i]]);
          continue;
        }
        values.push_back(kGroup | static_cast<uint32_t>(share.groups.size()));
        share.groups.push_back(static_cast<uint32_t>(next - i));
        for (int64_t j = i; j < next; ++j) share.rows.push_back(table.values[from + order[j]]);
      }
      const int64_t left = static_cast<int64_t>(values.size());
      std::copy(kept.begin(), kept.end(), codes + to * size());
      std::copy(values.begin(), values.end(), table.values.data() + to);
      share.sizes[bucket - first] = static_cast<uint32_t>(left);
      to += left;
    }
    share.entries = to - begin;
    return share;
  }

  int compare(const uint8_t* a, const uint8_t* b) const {
    if constexpr (Bytes == 4 || Bytes == 8) {
      const uint64_t x = load_word(a, Bytes), y = load_word(b, Bytes);
      return x < y ? -1 : x > y;
    }
    return std::memcmp(a, b, size());
  }

  // Puts what is left of the shares into arrays of the right size; groups are numbered through.
  void join(BuiltTable& table, const std::vector<int64_t>& firsts, const std::vector<Share>& found,
            Built& built) const {
    int64_t entries = 0, groups = 0, rows = 0;
    for (const Share& share : found) {
      entries += share.entries;
      groups += static_cast<int64_t>(share.groups.size());
      rows += static_cast<int64_t>(share.rows.size());
    }
    Pages<uint8_t> codes(entries * size());
    Pages<uint32_t> values(entries);
    built.group_limits = Pages<uint32_t>(groups + 1);
    built.group_rows = Pages<uint32_t>(rows);
    built.group_limits[0] = 0;
    int64_t entry = 0, group = 0, row = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const Share& share = found[i];
      const int64_t from = table.limits[firsts[i]];
      std::copy_n(table.codes.data() + from * size(), share.entries * size(),
                  codes.data() + entry * size());
      std::transform(table.values.data() + from, table.values.data() + from + share.entries,
                     values.data() + entry, [&](uint32_t value) {
                       return value & kGroup ? value + static_cast<uint32_t>(group) : value;
                     });
      entry += share.entries;
      for (const uint32_t n : share.groups) {
        built.group_limits[group + 1] = built.group_limits[group] + n;
        ++group;
      }
      row = std::copy(share.rows.begin(), share.rows.end(), built.group_rows.data() + row) -
            built.group_rows.data();
    }
    uint32_t limit = 0;
    for (size_t i = 0; i < found.size(); ++i)
      for (int64_t bucket = firsts[i]; bucket < firsts[i + 1]; ++bucket) {
        table.limits[bucket] = limit;
        limit += found[i].sizes[bucket - firsts[i]];
      }
    table.limits[table.limits.size() - 1] = limit;
    table.codes = std::move(codes);
    table.values = std::move(values);
  }

  int64_t bytes_, threads_;
};

}  // namespace

Built build(const uint8_t* codes, int64_t n, int64_t bytes, const std::vector<Substring>& parts,
            bool collapse, bool copies, int64_t threads) {
  Built built;
  for_width(bytes, [&]<int64_t Bytes>() {
    const Builder<Bytes> builder(bytes, std::max<int64_t>(threads, 1));
    built.tables.push_back(
        builder.sort(codes, n, parts[0], true, [](int64_t i) { return static_cast<uint32_t>(i); }));
    built.group_limits = Pages<uint32_t>(1);
    built.group_limits[0] = 0;
    built.group_rows = Pages<uint32_t>(0);
    if (collapse) builder.collapse(built.tables[0], built);
    for (size_t t = 1; t < parts.size(); ++t) {
      const BuiltTable& first = built.tables[0];
      built.tables.push_back(builder.sort(
          first.codes.data(), first.values.size(), parts[t], copies,
          [&](int64_t i) { return copies ? first.values[i] : static_cast<uint32_t>(i); }));
    }
  });
  return built;
}

void restore_codes(const MultiHash& index, uint8_t* codes) {
  const Table& table = index.tables.front();
  const auto write = [&](uint32_t row, const uint8_t* code) {
    if (row >= index.rows) throw damaged("row");
    std::memcpy(codes + row * index.bytes, code, index.bytes);
  };
  for (int64_t i = 0; i < index.entries; ++i) {
    const uint32_t value = table.values[i];
    const uint8_t* const code = table.codes + i * index.bytes;
    if (!(value & kGroup)) {
      write(value, code);
      continue;
    }
    const int64_t group = value & ~kGroup;
    if (group >= index.groups.n) throw damaged("group of rows");
    for (uint32_t at = index.groups.limits[group]; at < index.groups.limits[group + 1]; ++at)
      write(index.groups.rows[at], code);
  }
}

}  // namespace hashfast::index
