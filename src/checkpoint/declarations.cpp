#include "checkpoint/declarations.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace switchyard {
namespace {

using nlohmann::json;

// Regions of one tensor by the place of their boxes.
using RegionsOfTensor = std::map<std::pair<std::vector<int64_t>, std::vector<int64_t>>, Region>;

void add(RegionsOfTensor& regions, const Declaration& declaration, Region::Holder holder) {
  const Box& box = declaration.box;
  SY_CHECK(fits(box, declaration.shape) && box.numel() > 0, "rank {} holds {} of \"{}\" {}",
           holder.rank, box_text(box), declaration.key, shape_text(declaration.shape));
  if (!regions.empty()) {
    const Region& first = regions.begin()->second;
    SY_CHECK(first.tensor.role == declaration.role && first.tensor.dtype == declaration.dtype &&
                 first.tensor.shape == declaration.shape,
             "\"{}\" is {} {} on rank {} and {} {} on rank {}", declaration.key,
             name_of(first.tensor.dtype), shape_text(first.tensor.shape), first.holders[0].rank,
             name_of(declaration.dtype), shape_text(declaration.shape), holder.rank);
  }
  Region& region = regions[{box.offset, box.shape}];
  region.tensor = declaration;
  SY_CHECK(region.holders.empty() || region.holders.back().rank < holder.rank,
           "rank {} holds {} of \"{}\" twice", holder.rank, box_text(box), declaration.key);
  region.holders.push_back(holder);
}

void check_disjoint(const Region& a, const Region& b) {
  SY_CHECK(intersection(a.tensor.box, b.tensor.box).numel() == 0,
           "\"{}\": rank {} holds {} and rank {} {}, which overlap", a.tensor.key,
           a.holders[0].rank, box_text(a.tensor.box), b.holders[0].rank, box_text(b.tensor.box));
}

// That the regions, ordered by their first rows, are disjoint and the whole tensor.
void check_coverage(const RegionsOfTensor& regions) {
  std::vector<const Region*> open;  // may reach the rows at hand
  int64_t numel = 0;
  for (const auto& [place, region] : regions) {
    const Box& box = region.tensor.box;
    std::erase_if(open, [&](const Region* other) {
      const Box& past = other->tensor.box;
      return !box.shape.empty() && past.offset[0] + past.shape[0] <= box.offset[0];
    });
    for (const Region* other : open) check_disjoint(*other, region);
    open.push_back(&region);
    numel += box.numel();
  }
  const Declaration& tensor = regions.begin()->second.tensor;
  SY_CHECK(numel == numel_of(tensor.shape), "the ranks hold {} of the {} elements of \"{}\"", numel,
           numel_of(tensor.shape), tensor.key);
}

}  // namespace

int64_t Declaration::bytes() const {
  return box.numel() * static_cast<int64_t>(size_in_bytes(dtype));
}

Declarations declarations_of(const std::vector<HeldTensor>& held) {
  Declarations declarations;
  for (const HeldTensor& tensor : held)
    declarations.push_back({.key = tensor.key,
                            .role = tensor.role,
                            .dtype = tensor.data.dtype(),
                            .shape = tensor.shape,
                            .box = tensor.box});
  return declarations;
}

std::string to_text(const Declarations& declarations) {
  json list = json::array();
  for (const Declaration& declaration : declarations)
    list.push_back({declaration.key, declaration.role, declaration.dtype, declaration.shape,
                    declaration.box.offset, declaration.box.shape});
  return list.dump();
}

Declarations declarations_from_text(const std::string& text) {
  using Fields = std::tuple<std::string, TensorRole, DType, std::vector<int64_t>,
                            std::vector<int64_t>, std::vector<int64_t>>;
  Declarations declarations;
  for (const json& item : json::parse(text)) {
    auto [key, role, dtype, shape, offset, box_shape] = item.get<Fields>();
    declarations.push_back(
        {std::move(key), role, dtype, std::move(shape), {std::move(offset), std::move(box_shape)}});
  }
  return declarations;
}

std::vector<Declarations> exchange_declarations(const Declarations& mine, Communicator& world) {
  // One line for each rank: JSON escapes line feeds.
  std::string all = fmt::format("{}", fmt::join(world.gather_host(to_text(mine), 0), "\n"));
  world.broadcast_host(all, 0);
  std::vector<Declarations> by_rank;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\n', begin), all.size());
    by_rank.push_back(declarations_from_text(all.substr(begin, end - begin)));
    begin = end + 1;
  }
  return by_rank;
}

std::vector<Region> regions_of(const std::vector<Declarations>& by_rank) {
  std::map<std::string, RegionsOfTensor> tensors;
  for (size_t rank = 0; rank < by_rank.size(); ++rank)
    for (size_t held = 0; held < by_rank[rank].size(); ++held)
      add(tensors[by_rank[rank][held].key], by_rank[rank][held],
          {.rank = static_cast<int>(rank), .held = held});
  std::vector<Region> regions;
  for (auto& [key, of_tensor] : tensors) {
    check_coverage(of_tensor);
    for (auto& [place, region] : of_tensor) regions.push_back(std::move(region));
  }
  return regions;
}

}  // namespace switchyard
