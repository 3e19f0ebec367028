// Compares what the header's launches pass with what the kernels take, at compile time. Both backends use this text, so that a
// fault has the same message on both. It needs no other header. It has no functions and no variables: a variable would be a part of
// the compiled kernel. So numbers are enumerators.
//
// A mismatch names an incomplete type: `kforge_takes<0, 2, const int*>` says that argument 2 of launch 0, counted from 0, is a
// `const int*` in the kernel. `argument_checks` reads these names in the compiler's messages.

struct __half; struct __half2; struct __nv_bfloat16; struct __nv_bfloat162; struct __nv_fp8_e4m3; struct __nv_fp8_e5m2;

namespace kforge_check {

// What a header passes that has no C++ type of its own. The parameter decides the type.
struct IntegerValue {};
template <long long Value> struct IntegerConstant {};
struct FloatConstant {};
struct BoolConstant {};
struct NullPointer {};

template <class... T> struct types {};

template <class T> struct Bare { using type = T; };
template <class T> struct Bare<const T> { using type = T; };
template <class T> struct Bare<volatile T> { using type = T; };
template <class T> struct Bare<const volatile T> { using type = T; };

template <class A, class B> struct Same { enum : bool { value = false }; };
template <class A> struct Same<A, A> { enum : bool { value = true }; };

template <class T> struct Integer { enum : int { bytes = 0 }; };
#define KFORGE_INTEGER(type) template <> struct Integer<type> { enum : int { bytes = sizeof(type) }; };
KFORGE_INTEGER(bool) KFORGE_INTEGER(char) KFORGE_INTEGER(signed char) KFORGE_INTEGER(unsigned char)
KFORGE_INTEGER(short) KFORGE_INTEGER(unsigned short) KFORGE_INTEGER(int) KFORGE_INTEGER(unsigned)
KFORGE_INTEGER(long) KFORGE_INTEGER(unsigned long) KFORGE_INTEGER(long long) KFORGE_INTEGER(unsigned long long)
#undef KFORGE_INTEGER

template <class T> struct IsFloat { enum : bool { value = Same<T, float>::value || Same<T, double>::value }; };

// Storage of the narrow floating-point types. An integer of this size may hold their bits.
template <class T> struct NarrowFloat { enum : int { bytes = 0 }; };
#define KFORGE_NARROW_FLOAT(type, size) template <> struct NarrowFloat<type> { enum : int { bytes = size }; };
KFORGE_NARROW_FLOAT(__half, 2) KFORGE_NARROW_FLOAT(__nv_bfloat16, 2)
KFORGE_NARROW_FLOAT(__nv_fp8_e4m3, 1) KFORGE_NARROW_FLOAT(__nv_fp8_e5m2, 1)
#undef KFORGE_NARROW_FLOAT

// The scalar type of a vector's elements; `void` if the vector may hold any bytes.
template <class T> struct Element { using type = T; };
#define KFORGE_ELEMENT(vector, scalar) template <> struct Element<vector> { using type = scalar; };
#define KFORGE_ELEMENTS(vector, scalar) KFORGE_ELEMENT(vector##2, scalar) KFORGE_ELEMENT(vector##3, scalar) KFORGE_ELEMENT(vector##4, scalar)
KFORGE_ELEMENTS(float, float) KFORGE_ELEMENTS(char, signed char) KFORGE_ELEMENTS(uchar, unsigned char)
KFORGE_ELEMENTS(short, short) KFORGE_ELEMENTS(ushort, unsigned short) KFORGE_ELEMENT(double2, double) KFORGE_ELEMENT(double3, double)
KFORGE_ELEMENT(long2, long) KFORGE_ELEMENT(long3, long) KFORGE_ELEMENT(longlong2, long long) KFORGE_ELEMENT(longlong3, long long)
KFORGE_ELEMENT(__half2, __half) KFORGE_ELEMENT(__nv_bfloat162, __nv_bfloat16)
// Kernels use these to move 8 or 16 bytes of any type.
KFORGE_ELEMENTS(int, void) KFORGE_ELEMENTS(uint, void)
#undef KFORGE_ELEMENTS
#undef KFORGE_ELEMENT

// Whether a parameter of type `Taken` accepts a value of type `Passed`.
template <class Passed, class Taken> struct Value {
    enum : bool { same = Same<Passed, Taken>::value || (Integer<Passed>::bytes && Integer<Passed>::bytes == Integer<Taken>::bytes) };
};
template <class Taken> struct Value<IntegerValue, Taken> {
    enum : bool { same = Integer<Taken>::bytes >= 4 };
};
template <class Taken> struct Value<FloatConstant, Taken> {
    enum : bool { same = IsFloat<Taken>::value };
};
template <class Taken> struct Value<BoolConstant, Taken> {
    enum : bool { same = Integer<Taken>::bytes != 0 };
};
// Whether the type can represent a value.
template <long long Number, class Taken, bool IsInteger> struct Represents { enum : bool { value = IsFloat<Taken>::value }; };
template <long long Number, class Taken> struct Represents<Number, Taken, true> {
    enum : bool { value = static_cast<long long>(static_cast<Taken>(Number)) == Number && (Number >= 0 || static_cast<Taken>(-1) < static_cast<Taken>(1)) };
};
template <long long Number, class Taken> struct Value<IntegerConstant<Number>, Taken> {
    enum : bool { same = Represents<Number, Taken, Integer<Taken>::bytes != 0>::value };
};

// NVRTC knows the narrow types only from their headers, which a kernel need not include.
template <int Narrow, class T> struct Size { enum : unsigned { bytes = Narrow }; };
template <class T> struct Size<0, T> { enum : unsigned { bytes = sizeof(T) }; };

// A class of the kernel file itself, such as `struct alignas(16) Pack { float x[4]; }`, may hold any bytes.
template <bool IsClass, class Passed, class Taken> struct OwnClass { enum : bool { holds = false }; };
template <class Passed, class Taken> struct OwnClass<true, Passed, Taken> {
    enum : bool { holds = __is_trivially_copyable(Taken) && sizeof(Taken) % Size<NarrowFloat<Passed>::bytes, Passed>::bytes == 0 };
};

// Whether memory with elements of type `Passed` may be used as memory of type `Taken`.
template <class Passed, class Taken> struct Pointee {
    using Target = typename Element<Taken>::type;
    enum : bool { is_own = __is_class(Taken) && Same<Target, Taken>::value && !NarrowFloat<Taken>::bytes };
    enum : bool { same = Same<Target, void>::value || Value<Passed, Target>::same
        || (NarrowFloat<Passed>::bytes && NarrowFloat<Passed>::bytes == Integer<Target>::bytes) || OwnClass<is_own, Passed, Taken>::holds };
};

template <class Passed, class Taken> struct Fits { enum : bool { value = Value<Passed, typename Bare<Taken>::type>::same }; };
template <class Passed, class Taken> struct Fits<Passed*, Taken*> { enum : bool { value = Pointee<Passed, typename Bare<Taken>::type>::same }; };
template <class Taken> struct Fits<NullPointer, Taken> { enum : bool { value = false }; };
template <class Taken> struct Fits<NullPointer, Taken*> { enum : bool { value = true }; };

template <int Launch, int Position, class Taken> struct kforge_takes;
template <int Launch, int Count, class... Taken> struct kforge_counts;
template <int Launch, class Function> struct kforge_no_kernel;

template <bool Fits, int Launch, int Position, class Taken> struct Compare { enum : unsigned { faults = 0 }; };
template <int Launch, int Position, class Taken> struct Compare<false, Launch, Position, Taken> {
    enum : unsigned { faults = sizeof(kforge_takes<Launch, Position, Taken>) };
};

template <int Launch, int Position, class Passed, class Taken> struct CompareAll { enum : unsigned { faults = 0 }; };
template <int Launch, int Position, class P, class... Passed, class T, class... Taken>
struct CompareAll<Launch, Position, types<P, Passed...>, types<T, Taken...>> {
    enum : unsigned { faults = Compare<Fits<P, T>::value, Launch, Position, T>::faults
        + CompareAll<Launch, Position + 1, types<Passed...>, types<Taken...>>::faults };
};

template <bool SameCount, int Launch, class Passed, class Taken> struct CompareCount : CompareAll<Launch, 0, Passed, Taken> {};
template <int Launch, class... Passed, class... Taken> struct CompareCount<false, Launch, types<Passed...>, types<Taken...>> {
    enum : unsigned { faults = sizeof(kforge_counts<Launch, sizeof...(Taken), Taken...>) };
};

// `count`: the number of arguments that the kernel takes. Using it reports every mismatch.
template <int Launch, class Passed, class Function> struct Entry {
    enum : unsigned { count = sizeof(kforge_no_kernel<Launch, Function>) };
};
template <int Launch, class... Passed, class... Taken> struct Entry<Launch, types<Passed...>, void (*)(Taken...)> {
    enum : unsigned { count = sizeof...(Taken) + CompareCount<sizeof...(Passed) == sizeof...(Taken), Launch, types<Passed...>, types<Taken...>>::faults };
};

}  // namespace kforge_check
