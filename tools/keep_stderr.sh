#!/bin/sh
# Runs a compiler, and keeps what it says on stderr beside the object that it makes:
#   tools/keep_stderr.sh OBJECT COMPILER ARGUMENTS...
# ptxas tells there what every kernel needs; tools/kernel_report.py reads OBJECT.log.
object=$1
shift
"$@" 2>"$object.log"
code=$?
cat "$object.log" >&2
exit $code
