// All that a CUDA source needs to become C++: compiled once ahead, included at the head of every candidate.
//
// It makes the words of CUDA mean what they mean on a GPU, for one thread that runs as a fiber. What a CPU cannot run
// is not declared.

#pragma once

#include "language.h"
#include "copies.h"
#include "mathematics.h"
#include "narrow.h"
#include "half.h"
#include "bfloat16.h"
#include "rounding.h"
#include "intrinsics.h"
#include "simd.h"
#include "warp.h"
#include "atomics.h"
#include "groups.h"
#include "entry.h"
#include "include/assert.h"
