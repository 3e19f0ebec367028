// A failed assertion is recorded with its source location and ends the process. May be included again with a different
// NDEBUG, like the standard header.

#undef assert
#ifdef NDEBUG
#define assert(...) ((void)0)
#else
#define assert(...) ((__VA_ARGS__) ? (void)0 : ::kforge::assertion_failed(#__VA_ARGS__, __FILE__, __LINE__))
#endif
