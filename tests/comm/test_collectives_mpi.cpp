// Collectives between MPI processes that block, and the same that a backend completes.
#include "backend/cpu/cpu_backend.h"
#include "comm/collective_checks.h"
#include "support/catch.h"
#include "support/host_tensor.h"
#include "support/mpi_main.h"

using namespace switchyard;
using namespace switchyard::test;

TEST_CASE("collectives between processes") {
  CpuBackend backend(1);
  check_collectives(mpi_world(), backend);
  const auto group = mpi_world().split(0, mpi_world().rank(), "group");
  group->use(backend);
  check_collectives(*group, backend);
}

TEST_CASE("collectives between processes in groups of a split") {
  CpuBackend backend(1);
  check_collectives_of_subgroups(mpi_world(), backend);
  const auto group = mpi_world().split(0, mpi_world().rank(), "group");
  group->use(backend);
  check_collectives_of_subgroups(*group, backend);
}

TEST_CASE("a message of another length is an error") {
  const auto group = mpi_world().split(0, mpi_world().rank(), "pp");
  const int P = group->size();
  if (P == 1) return;  // Open MPI cuts a rank's messages to itself without an error
  CpuBackend backend(1);
  for (const bool uses_backend : {false, true}) {
    if (uses_backend) group->use(backend);
    const int next = (group->rank() + 1) % P, previous = (group->rank() + P - 1) % P;
    HostTensor<float> four({4}), three({3}), eight({8});
    const Message sends[] = {{four, next}};
    const auto exchange = [&](Tensor received) {
      const Message receives[] = {{received, previous}};
      backend.host_wait(group->send_receive(sends, receives));
    };
    const std::string who = fmt::format("pp (rank {} of {}): ", group->rank(), P);
    CHECK_THROWS_WITH(exchange(three), contains_text(who) && contains_text("MPI_ERR_TRUNCATE"));
    CpuBackend another(1);  // forgets what has failed
    if (uses_backend) group->use(another);
    const Message receives[] = {{eight, previous}};
    CHECK_THROWS_WITH(another.host_wait(group->send_receive(sends, receives)),
                      contains_text(who) && contains_text("16 bytes, not 32"));
  }
}
