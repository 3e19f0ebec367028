// Which functions the launches start. Checks that each takes what its launch passes: a letter for each argument, w(ord of at most 8
// bytes), f(loat), d(ouble) or t(ensor map).
namespace kforge_launches {
template <class T>
struct floating {
    static constexpr int bytes = 0;
};
template <>
struct floating<float> {
    static constexpr int bytes = 4;
};
template <>
struct floating<double> {
    static constexpr int bytes = 8;
};
template <char... Passed, class... Taken>
constexpr auto checked(void (*kernel)(Taken...)) {
    static_assert(sizeof...(Passed) == sizeof...(Taken), "the kernel takes another number of arguments");
    static_assert(((Passed == 'f' ? floating<Taken>::bytes == 4 : Passed == 'd' ? floating<Taken>::bytes == 8
            : Passed == 't' ? sizeof(Taken) == 128 : floating<Taken>::bytes == 0 && sizeof(Taken) <= 8) && ...),
        "the kernel takes an argument of another type");
    return kernel;
}
