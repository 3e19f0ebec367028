[[maybe_unused]] static __half scalar_float16(double value) { return __half(value); }
[[maybe_unused]] static __nv_bfloat16 scalar_bfloat16(double value) { return __nv_bfloat16(value); }
[[maybe_unused]] static __nv_fp8_e4m3 scalar_float8_e4m3fn(double value) { return __nv_fp8_e4m3(value); }
[[maybe_unused]] static __nv_fp8_e5m2 scalar_float8_e5m2(double value) { return __nv_fp8_e5m2(value); }
