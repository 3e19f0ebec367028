// Everything that turns a CUDA source into C++. Precompiled once, and included at the start of every translation unit.
//
// It gives CUDA's names the meaning that they have on a GPU, for one thread that runs as a fiber. Features that a CPU cannot
// run are not declared.

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
