[[maybe_unused]] static Pointer pointer(const void* address) { return Pointer{address}; }
[[maybe_unused]] static Pointer null() { return Pointer{nullptr}; }
[[maybe_unused]] static int32_t int32(int64_t value) {
    return static_cast<int32_t>(within(value, INT32_MIN, INT32_MAX, "an argument of 32 bits"));
}
[[maybe_unused]] static uint32_t uint32(int64_t value) {
    return static_cast<uint32_t>(within(value, 0, UINT32_MAX, "an argument of 32 bits"));
}
[[maybe_unused]] static int64_t int64(int64_t value) { return value; }
[[maybe_unused]] static int32_t integer(int64_t value) { return int32(value); }
[[maybe_unused]] static int64_t whole_constant(int64_t value) { return value; }
[[maybe_unused]] static double float_constant(double value) { return value; }
[[maybe_unused]] static bool truth(int value) { return value != 0; }
[[maybe_unused]] static double scalar_float64(double value) { return value; }
[[maybe_unused]] static float scalar_float32(double value) { return static_cast<float>(value); }
[[maybe_unused]] static int64_t scalar_int64(int64_t value) { return value; }
[[maybe_unused]] static int32_t scalar_int32(int32_t value) { return value; }
[[maybe_unused]] static int16_t scalar_int16(int16_t value) { return value; }
[[maybe_unused]] static int8_t scalar_int8(int8_t value) { return value; }
[[maybe_unused]] static bool scalar_bool(uint8_t value) { return value != 0; }
