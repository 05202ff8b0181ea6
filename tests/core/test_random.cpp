#include <cmath>
#include <set>

#include "core/random.h"
#include "support/catch.h"

using namespace switchyard;

TEST_CASE("philox gives the known answers of its authors") {
  // Random123's kat_vectors for philox4x32 with 10 rounds.
  CHECK(philox(0, 0, 0) ==
        std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  CHECK(philox(~0ull, ~0ull, ~0ull) ==
        std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  CHECK(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull) ==
        std::array<uint32_t, 4>{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

TEST_CASE("uniform and normal numbers have their moments") {
  const uint64_t key = random_key(1, "moments");
  const int n = 200000;
  double uniform = 0, uniform2 = 0, normal = 0, normal2 = 0, normal4 = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random_uniform(key, static_cast<uint64_t>(i));
    const double z = random_normal(key, static_cast<uint64_t>(i));
    REQUIRE((u >= 0 && u < 1));
    uniform += u / n, uniform2 += u * u / n;
    normal += z / n, normal2 += z * z / n, normal4 += z * z * z * z / n;
  }
  // Five standard deviations of each estimate.
  CHECK(std::abs(uniform - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(uniform2 - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
  CHECK(std::abs(normal) < 5 / std::sqrt(n));
  CHECK(std::abs(normal2 - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(normal4 - 3) < 5 * std::sqrt(96.0 / n));
}

TEST_CASE("streams of different names, seeds and indices differ") {
  CHECK(random_key(1, "a") != random_key(1, "b"));
  CHECK(random_key(1, "a") != random_key(2, "a"));
  CHECK(random_uniform(5, 1) != random_uniform(5, 2));
  CHECK(random_uniform(5, 1, 0) != random_uniform(5, 1, 1));
}

TEST_CASE("a permutation is a bijection for every size, and not the identity") {
  for (const uint64_t size : {1u, 2u, 3u, 5u, 16u, 17u, 100u, 257u, 1000u}) {
    std::set<uint64_t> seen;
    uint64_t fixed = 0;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t image = random_permutation(42, i, size);
      REQUIRE(image < size);
      seen.insert(image);
      fixed += image == i ? 1 : 0;
    }
    CHECK(seen.size() == size);
    if (size >= 100) CHECK(fixed < 10);
  }
}
