// The same under its other name.

#pragma once

#include <cuda_fp8.h>
