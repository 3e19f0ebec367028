[[maybe_unused]] static int64_t overflow() { fail("the value does not fit 64 bits"); }
[[maybe_unused]] static int64_t add(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? overflow() : sum;
}
[[maybe_unused]] static int64_t sub(int64_t a, int64_t b) {
    int64_t difference;
    return __builtin_sub_overflow(a, b, &difference) ? overflow() : difference;
}
[[maybe_unused]] static int64_t mul(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? overflow() : product;
}
[[maybe_unused]] static int64_t neg(int64_t a) { return sub(0, a); }
[[maybe_unused]] static int64_t floor_div(int64_t a, int64_t b) {
    if (b == 0) fail("division by zero");
    if (b == -1) return neg(a);
    const int64_t quotient = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}
[[maybe_unused]] static int64_t floor_mod(int64_t a, int64_t b) { return sub(a, mul(floor_div(a, b), b)); }
[[maybe_unused]] static int64_t ceil_div(int64_t a, int64_t b) {
    if (b == 0) fail("division by zero");
    return neg(floor_div(neg(a), b));
}
[[maybe_unused]] static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused]] static int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
[[maybe_unused]] static int64_t next_pow2(int64_t a) {
    int64_t power = 1;
    while (power < a) power = add(power, power);
    return power;
}
[[maybe_unused]] static int64_t within(int64_t value, int64_t low, int64_t high, const char* what) {
    if (value >= low && value <= high) return value;
    fail(std::string(what) + ": expected " + std::to_string(low) + " to " + std::to_string(high) + ", found " +
        std::to_string(value));
}
