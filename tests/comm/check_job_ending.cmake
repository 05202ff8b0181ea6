# Runs job_ending under mpirun and looks at what the user sees.
#   cmake -D MPIRUN=... -D JOB_ENDING=... [-D REPETITIONS=n] -P check_job_ending.cmake
cmake_minimum_required(VERSION 3.25)
if(NOT REPETITIONS)
  set(REPETITIONS 3)
endif()

function(run_job ranks)
  execute_process(COMMAND ${MPIRUN} --bind-to none -n ${ranks} ${JOB_ENDING} ${ARGN}
                  RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE errors TIMEOUT 60)
  set(context "mpirun -n ${ranks} job_ending ${ARGN}: code ${code}, stdout '${output}', stderr '${errors}'")
  return(PROPAGATE code output errors context)
endfunction()

foreach(ranks 1 2 4)
  run_job(${ranks} return)
  if(NOT code EQUAL 0 OR NOT output STREQUAL "" OR NOT errors STREQUAL "")
    message(FATAL_ERROR "an ordinary end is silent: ${context}")
  endif()

  foreach(repetition RANGE 1 ${REPETITIONS})
    run_job(${ranks} together 64)
    if(NOT code EQUAL 64 OR NOT output STREQUAL "message on stdout"
       OR NOT errors STREQUAL "message on stderr\n")
      message(FATAL_ERROR "one message, code 64 and nothing of mpirun's own: ${context}")
    endif()
  endforeach()

  run_job(${ranks} abort 70)
  if(NOT code EQUAL 70 OR NOT errors MATCHES "message on stderr\n")
    message(FATAL_ERROR "the message and code 70: ${context}")
  endif()
endforeach()

# Without mpirun: a job of one rank.
execute_process(COMMAND ${JOB_ENDING} together 64
                RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE errors TIMEOUT 60)
if(NOT code EQUAL 64 OR NOT output STREQUAL "message on stdout"
   OR NOT errors STREQUAL "message on stderr\n")
  message(FATAL_ERROR "alone: code ${code}, stdout '${output}', stderr '${errors}'")
endif()
