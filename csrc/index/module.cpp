// hashfast._index: multi-index hashing over numpy arrays, which are never copied. Knows nothing of
// torch; the Python side checks what users give.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "build.h"
#include "search.h"

namespace py = pybind11;

namespace hashfast::index {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Widths = std::vector<int64_t>;

template <class T>
Array<T> to_array(Pages<T>&& pages, std::vector<py::ssize_t> shape) {
  T* const data = pages.release();
  return Array<T>(std::move(shape), data,
                  py::capsule(data, [](void* memory) { std::free(memory); }));
}

template <class T>
Array<T> to_array(std::vector<T>&& values) {
  auto* const held = new std::vector<T>(std::move(values));
  return Array<T>(static_cast<py::ssize_t>(held->size()), held->data(),
                  py::capsule(held, [](void* p) { delete static_cast<std::vector<T>*>(p); }));
}

// Consecutive substrings of these widths.
std::vector<Substring> substrings(const Widths& widths, int64_t bytes) {
  std::vector<Substring> parts;
  int64_t first = 0;
  for (const int64_t width : widths) {
    if (width < 1 || width > 31 || first + width > 8 * bytes)
      throw std::invalid_argument("substrings of these widths do not fit the codes");
    parts.emplace_back(first, width, bytes);
    first += width;
  }
  if (parts.empty() || parts.size() > kMostTables)
    throw std::invalid_argument("the number of substrings is not 1 to 64");
  return parts;
}

void check_limits(const Array<uint32_t>& limits, int64_t n, int64_t last, const char* what) {
  if (limits.size() != n + 1 || limits.at(0) != 0 || limits.at(n) != last ||
      !std::is_sorted(limits.data(), limits.data() + n + 1))
    throw std::invalid_argument(std::string(what) + " do not rise from 0 to their end");
}

struct Arrays {
  Array<uint32_t> limits;
  std::optional<Array<uint8_t>> codes;
  Array<uint32_t> values;
};

// A view with the arrays it shows.
class Index {
 public:
  Index(int64_t bytes, int64_t rows, const Widths& widths, std::vector<Arrays> tables,
        Array<uint32_t> group_limits, Array<uint32_t> group_rows)
      : widths_(widths),
        tables_(std::move(tables)),
        group_limits_(std::move(group_limits)),
        group_rows_(std::move(group_rows)) {
    const std::vector<Substring> parts = substrings(widths, bytes);
    if (tables_.size() != parts.size() || !tables_[0].codes || rows < 0 || rows >= kGroup)
      throw std::invalid_argument("there is not one table for each substring of its codes");
    if (group_limits_.size() < 1) throw std::invalid_argument("there are no limits of groups");
    const int64_t entries = tables_[0].values.size();
    view_ = {bytes, rows, entries, {}, {}};
    for (size_t t = 0; t < parts.size(); ++t) {
      const Arrays& table = tables_[t];
      check_limits(table.limits, int64_t{1} << parts[t].width(), entries, "limits of buckets");
      if (table.values.size() != entries || (table.codes && table.codes->size() != entries * bytes))
        throw std::invalid_argument("tables have different numbers of entries");
      view_.tables.push_back({parts[t], table.limits.data(),
                              table.codes ? table.codes->data() : nullptr, table.values.data()});
    }
    const int64_t groups = group_limits_.size() - 1;
    check_limits(group_limits_, groups, group_rows_.size(), "limits of groups");
    view_.groups = {group_limits_.data(), group_rows_.data(), groups};
    if (rows != entries - groups + group_rows_.size())
      throw std::invalid_argument("its rows are not as many as its tables have");
  }

  py::tuple search(const Array<uint8_t>& query, int64_t k, const Array<uint8_t>& tail,
                   const std::optional<Array<uint8_t>>& allowed, int64_t threads) const {
    const Request request = request_of(query, tail, allowed);
    Array<int32_t> distances({static_cast<py::ssize_t>(request.n), static_cast<py::ssize_t>(k)});
    Array<int64_t> rows({static_cast<py::ssize_t>(request.n), static_cast<py::ssize_t>(k)});
    int32_t* const distance = distances.mutable_data();
    int64_t* const row = rows.mutable_data();
    {
      py::gil_scoped_release unlocked;
      find_nearest(view_, request, k, threads, distance, row);
    }
    return py::make_tuple(distances, rows);
  }

  py::tuple range_search(const Array<uint8_t>& query, int64_t radius, const Array<uint8_t>& tail,
                         const std::optional<Array<uint8_t>>& allowed, int64_t threads) const {
    const Request request = request_of(query, tail, allowed);
    Ranges found;
    {
      py::gil_scoped_release unlocked;
      found = find_within(view_, request, radius, threads);
    }
    return py::make_tuple(to_array(std::move(found.limits)), to_array(std::move(found.distances)),
                          to_array(std::move(found.rows)));
  }

  // In the order of rows and those of the tail behind them, uint8 [rows + t, bytes].
  Array<uint8_t> codes(const Array<uint8_t>& tail) const {
    check_width(tail);
    const int64_t rows = view_.rows + tail.shape(0), tables_end = view_.rows * view_.bytes;
    Pages<uint8_t> codes(rows * view_.bytes);
    const uint8_t* const behind = tail.data();
    {
      py::gil_scoped_release unlocked;
      std::fill_n(codes.data(), tables_end, 0);  // a damaged file may not name every row
      restore_codes(view_, codes.data());
      std::copy_n(behind, rows * view_.bytes - tables_end, codes.data() + tables_end);
    }
    return to_array(std::move(codes), {rows, view_.bytes});
  }

  const Widths& widths() const { return widths_; }
  const std::vector<Arrays>& tables() const { return tables_; }
  const Array<uint32_t>& group_limits() const { return group_limits_; }
  const Array<uint32_t>& group_rows() const { return group_rows_; }
  int64_t code_size() const { return view_.bytes; }
  int64_t rows() const { return view_.rows; }
  int64_t entries() const { return view_.entries; }
  int64_t nbytes() const {
    int64_t sum = group_limits_.nbytes() + group_rows_.nbytes();
    for (const Arrays& table : tables_)
      sum +=
          table.limits.nbytes() + table.values.nbytes() + (table.codes ? table.codes->nbytes() : 0);
    return sum;
  }

 private:
  void check_width(const Array<uint8_t>& codes) const {
    if (codes.ndim() != 2 || codes.shape(1) != view_.bytes)
      throw std::invalid_argument("codes are of another width");
  }

  Request request_of(const Array<uint8_t>& query, const Array<uint8_t>& tail,
                     const std::optional<Array<uint8_t>>& allowed) const {
    check_width(query);
    check_width(tail);
    if (allowed && allowed->size() != (view_.rows + tail.shape(0) + 7) / 8)
      throw std::invalid_argument("allowed is of another size");
    return {query.data(), query.shape(0), tail.data(), tail.shape(0),
            allowed ? allowed->data() : nullptr};
  }

  Widths widths_;
  std::vector<Arrays> tables_;
  Array<uint32_t> group_limits_, group_rows_;
  MultiHash view_;
};

Index build_index(const Array<uint8_t>& codes, const Widths& widths, bool collapse, bool copies,
                  int64_t threads) {
  if (codes.ndim() != 2) throw std::invalid_argument("codes are not [n, bytes]");
  const int64_t n = codes.shape(0), bytes = codes.shape(1);
  const std::vector<Substring> parts = substrings(widths, bytes);
  const uint8_t* const data = codes.data();
  Built built;
  {
    py::gil_scoped_release unlocked;
    built = build(data, n, bytes, parts, collapse, copies, threads);
  }
  std::vector<Arrays> tables;
  for (BuiltTable& table : built.tables) {
    const int64_t entries = table.values.size(), limits = table.limits.size();
    Arrays arrays{to_array(std::move(table.limits), {limits}), std::nullopt,
                  to_array(std::move(table.values), {entries})};
    if (tables.empty() || copies) arrays.codes = to_array(std::move(table.codes), {entries, bytes});
    tables.push_back(std::move(arrays));
  }
  const int64_t limits = built.group_limits.size(), rows = built.group_rows.size();
  return Index(bytes, n, widths, std::move(tables),
               to_array(std::move(built.group_limits), {limits}),
               to_array(std::move(built.group_rows), {rows}));
}

}  // namespace

PYBIND11_MODULE(_index, m) {
  py::class_<Arrays>(m, "Table")
      .def(py::init<Array<uint32_t>, std::optional<Array<uint8_t>>, Array<uint32_t>>(),
           py::arg("limits").noconvert(), py::arg("codes").noconvert().none(true),
           py::arg("values").noconvert())
      .def_readonly("limits", &Arrays::limits)
      .def_readonly("codes", &Arrays::codes)
      .def_readonly("values", &Arrays::values);
  py::class_<Index>(m, "MultiHash")
      .def(py::init<int64_t, int64_t, Widths, std::vector<Arrays>, Array<uint32_t>,
                    Array<uint32_t>>(),
           py::arg("code_size"), py::arg("rows"), py::arg("widths"), py::arg("tables"),
           py::arg("group_limits").noconvert(), py::arg("group_rows").noconvert())
      .def_static("build", &build_index, py::arg("codes").noconvert(), py::arg("widths"),
                  py::arg("collapse"), py::arg("copies"), py::arg("threads"))
      .def("search", &Index::search, py::arg("query").noconvert(), py::arg("k"),
           py::arg("tail").noconvert(), py::arg("allowed").noconvert().none(true),
           py::arg("threads"))
      .def("range_search", &Index::range_search, py::arg("query").noconvert(), py::arg("radius"),
           py::arg("tail").noconvert(), py::arg("allowed").noconvert().none(true),
           py::arg("threads"))
      .def(py::pickle(
          [](const Index& index) {
            py::list tables;
            for (const Arrays& table : index.tables())
              tables.append(py::make_tuple(table.limits, table.codes, table.values));
            return py::make_tuple(index.code_size(), index.rows(), index.widths(), tables,
                                  index.group_limits(), index.group_rows());
          },
          [](const py::tuple& state) {
            std::vector<Arrays> tables;
            for (const py::handle table : state[3]) {
              const auto parts = table.cast<py::tuple>();
              tables.push_back({parts[0].cast<Array<uint32_t>>(),
                                parts[1].cast<std::optional<Array<uint8_t>>>(),
                                parts[2].cast<Array<uint32_t>>()});
            }
            return Index(state[0].cast<int64_t>(), state[1].cast<int64_t>(),
                         state[2].cast<Widths>(), std::move(tables),
                         state[4].cast<Array<uint32_t>>(), state[5].cast<Array<uint32_t>>());
          }))
      .def("codes", &Index::codes, py::arg("tail").noconvert())
      .def_property_readonly("widths", &Index::widths)
      .def_property_readonly("nbytes", &Index::nbytes)
      .def_property_readonly("tables", &Index::tables)
      .def_property_readonly("group_limits", &Index::group_limits)
      .def_property_readonly("group_rows", &Index::group_rows)
      .def_property_readonly("rows", &Index::rows)
      .def_property_readonly("entries", &Index::entries);
}

}  // namespace hashfast::index
