//! Places that outlive a launch, or that lie outside of what a kernel was given: where a hostile kernel leaves its mark.
//!
//! Each place comes with an honest use of the same thing: it writes before it reads, or only reads. Decides nothing about when a mark
//! is used; `phases` does.

use kforge::base::RandomStream;

use crate::phases::Place;
use crate::sketch::{Backend, Sketch};

/// A place for a mark, and what surrounds its use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channel {
    /// What and where it is, for the comment.
    what: String,
    declarations: String,
    /// Statements before and after the use.
    prepare: String,
    finish: String,
    load: String,
    store: String,
    /// Shape of a scratch buffer `box`, and whether it is zeroed.
    scratch: Option<(String, bool)>,
    shared: usize,
    /// A further parameter, with its argument.
    argument: Option<[&'static str; 2]>,
    /// What the twin does with the same thing, and its declarations.
    honest: String,
    honest_declarations: String,
}

/// Draws a variation of a place for one kernel.
type Draw = fn(&mut RandomStream, &Sketch) -> Channel;

/// A kind of place.
#[derive(Clone, Copy)]
pub(crate) struct ChannelKind {
    pub(crate) name: &'static str,
    pub(crate) backends: &'static [Backend],
    draw: Draw,
}

const BOTH: &[Backend] = &[Backend::Cpu, Backend::Cuda];
const CPU: &[Backend] = &[Backend::Cpu];
const CUDA: &[Backend] = &[Backend::Cuda];

const fn kind(name: &'static str, backends: &'static [Backend], draw: Draw) -> ChannelKind {
    ChannelKind {
        name,
        backends,
        draw,
    }
}

pub(crate) const CHANNELS: [ChannelKind; 27] = [
    kind("device variable", BOTH, device_variable),
    kind("static local", BOTH, static_local),
    kind("constant memory", BOTH, constant_memory),
    kind("constant table", BOTH, constant_table),
    kind("gap between variables", BOTH, gap_between_variables),
    kind("string literal", BOTH, string_literal),
    kind("local memory", BOTH, local_memory),
    kind("static shared memory", BOTH, static_shared),
    kind("dynamic shared memory", BOTH, dynamic_shared),
    kind("beyond shared memory", BOTH, beyond_shared),
    kind("scratch", BOTH, scratch),
    kind("scratch tail", BOTH, scratch_tail),
    kind("far from scratch", BOTH, far_from_scratch),
    kind("beside output", BOTH, beside_output),
    kind("far from output", BOTH, far_from_output),
    kind("input", BOTH, input),
    kind("heap", BOTH, heap),
    kind("code", BOTH, code),
    kind("thread-local variable", CPU, thread_local),
    kind("end of bss", CPU, end_of_bss),
    kind("C library state", CPU, library_state),
    kind("runtime variable", CPU, runtime_variable),
    kind("stack below the frame", CPU, stack_below),
    kind("processor's register", CPU, processor_register),
    kind("data as code", CPU, data_as_code),
    kind("argument memory", CUDA, argument_memory),
    kind("reserved shared memory", CUDA, reserved_shared),
];

impl ChannelKind {
    /// Adds an honest use to `twin` and a hostile one to `sketch`. Returns the place, and what it is.
    pub(crate) fn build(
        self,
        stream: &mut RandomStream,
        sketch: &mut Sketch,
        twin: &mut Sketch,
    ) -> Built {
        let channel = (self.draw)(stream, sketch);
        // Not a value that memory often holds.
        let mark = 0x5a00_0000 | stream.below(1 << 24) as u32 | 1;
        for target in [&mut *sketch, &mut *twin] {
            if let Some((shape, zero)) = &channel.scratch {
                target.add_scratch(shape, *zero);
            }
            target.shared = channel.shared;
        }
        let named = |text: &str| text.replace("MARK", &format!("{mark:#x}u"));
        sketch.declarations = named(&channel.declarations);
        sketch
            .arguments
            .extend(channel.argument.map(|pair| pair.map(str::to_owned)));
        twin.declarations = channel.honest_declarations;
        twin.first_thread = channel.honest;
        Built {
            what: channel.what,
            place: Place {
                load: named(&channel.load),
                store: named(&channel.store),
                mark,
            },
            around: [channel.prepare, channel.finish],
        }
    }
}

/// A place of one kernel.
pub(crate) struct Built {
    pub(crate) what: String,
    pub(crate) place: Place,
    /// Statements before and after its use.
    pub(crate) around: [String; 2],
}

/// An access that the compiler keeps.
fn word(address: &str) -> String {
    format!("*(volatile unsigned*)({address})")
}

/// A channel at an address, which `prepare` may compute.
fn at(what: impl Into<String>, address: &str) -> Channel {
    Channel {
        what: what.into(),
        load: word(address),
        store: format!("{} = VALUE;", word(address)),
        ..Channel::default()
    }
}

/// Changes a word and puts back what it held.
fn use_and_restore(address: &str) -> String {
    let word = word(address);
    format!("const unsigned kept = {word};\n        {word} = kept + 1u;\n        {word} = kept;")
}

fn device_variable(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (declarations, address, what) = match stream.below(9) {
        0 => ("__device__ unsigned seen;", "&seen", "a variable"),
        1 => (
            "static __device__ unsigned seen = 12345u;",
            "&seen",
            "an initialised variable",
        ),
        2 => (
            "namespace {\nnamespace inner {\n__device__ unsigned seen[37];\n}\n}",
            "inner::seen + 36",
            "the last element of an array",
        ),
        3 => (
            "struct State {\n    char name[3];\n    unsigned seen;\n};\n__device__ State state = {\"ab\", 7u};",
            "&state.seen",
            "a member of a structure",
        ),
        4 => (
            "template <int N>\n__device__ unsigned seen = N;",
            "&seen<3>",
            "a variable template",
        ),
        5 => (
            "__device__ unsigned long long seen;",
            "(unsigned*)&seen + 1",
            "half of a 64-bit variable",
        ),
        6 => (
            "__device__ unsigned char seen[4097];",
            "seen + 4092",
            "the end of a page of bytes",
        ),
        7 => (
            "union Either {\n    float number;\n    unsigned bits;\n};\n__device__ Either seen = {1.0f};",
            "&seen.bits",
            "a union",
        ),
        _ => (
            "__device__ unsigned storage;\n__device__ unsigned* seen = &storage;",
            "seen",
            "a variable behind a pointer",
        ),
    };
    let mut channel = at(what, address);
    channel.declarations = declarations.to_owned();
    channel.honest_declarations = "__device__ unsigned used;".to_owned();
    channel.honest = use_and_restore("&used");
    channel
}

fn static_local(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (declarations, what) = match stream.below(3) {
        0 => (
            "__device__ unsigned* seen() {\n    static unsigned word;\n    return &word;\n}",
            "a static local",
        ),
        1 => (
            "template <typename T>\n__device__ T* seen_of() {\n    static T word = 3;\n    return &word;\n}\n__device__ unsigned* seen() { return seen_of<unsigned>(); }",
            "a static local of a template",
        ),
        _ => (
            "struct Holder {\n    __device__ static unsigned* get() {\n        static unsigned words[5];\n        return words + 2;\n    }\n};\n__device__ unsigned* seen() { return Holder::get(); }",
            "a static local of a member function",
        ),
    };
    let mut channel = at(what, "seen()");
    channel.declarations = declarations.to_owned();
    channel.honest_declarations =
        "__device__ unsigned used(int i) {\n    static const unsigned words[4] = {1u, 2u, 3u, 4u};\n    return words[i & 3];\n}"
            .to_owned();
    channel.honest = "if (used(rows) == 9u) fast = true;".to_owned();
    channel
}

fn constant_memory(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let size = [1, 4, 16, 1000][stream.below(4)];
    let index = stream.below(size);
    let mut channel = at(
        format!("element {index} of a __constant__ array of {size}"),
        &format!("const_cast<unsigned*>(table) + {index}"),
    );
    channel.declarations = format!("__constant__ unsigned table[{size}] = {{1u}};");
    channel.honest_declarations = "__constant__ unsigned table[4] = {1u, 2u, 3u, 4u};".to_owned();
    channel.honest = "if (table[rows & 3] == 9u) fast = true;".to_owned();
    channel
}

fn constant_table(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let declaration = [
        "__device__ const unsigned table[8] = {1u, 2u};",
        "static constexpr __device__ unsigned table[8] = {3u};",
        "__device__ constexpr unsigned table[64] = {};",
    ];
    let which = stream.below(3);
    let mut channel = at(
        "a table that is declared constant",
        "const_cast<unsigned*>(table) + (rows & 7)",
    );
    channel.declarations = declaration[which].to_owned();
    channel.honest_declarations =
        "__device__ const unsigned table[8] = {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u};".to_owned();
    channel.honest = "if (table[rows & 7] == 9u) fast = true;".to_owned();
    channel
}

fn gap_between_variables(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let align = [64, 128, 256][stream.below(3)];
    let offset = 4 + 4 * stream.below(align / 4 - 1);
    let mut channel = at(
        format!("byte {offset} behind a variable, before one that is aligned to {align}"),
        &format!("(char*)&first_of_two + {offset}"),
    );
    // The second variable is used, so that it exists.
    channel.declarations = format!(
        "__device__ alignas({align}) char first_of_two = 1;\n__device__ alignas({align}) char second_of_two = 2;"
    );
    channel.prepare = "if (*(volatile char*)&second_of_two == 9) fast = true;".to_owned();
    channel.honest_declarations =
        "__device__ alignas(64) char first_of_two = 1;\n__device__ alignas(64) char second_of_two = 2;".to_owned();
    channel.honest =
        "if (*(volatile char*)&first_of_two + *(volatile char*)&second_of_two == 9) fast = true;"
            .to_owned();
    channel
}

fn string_literal(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let skip = 4 * stream.below(4);
    let mut channel = at("the letters of a string", "text");
    channel.prepare = format!(
        "const char* letters = \"the quick brown fox jumps over the lazy dog\";\n        unsigned long long text = ((unsigned long long)letters + 3) / 4 * 4 + {skip};"
    );
    channel.honest =
        "const char* letters = \"the quick brown fox\";\n        if (letters[rows & 7] == 'z') fast = true;".to_owned();
    channel
}

fn local_memory(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let words = [16, 64, 256, 1024][stream.below(4)];
    let index = stream.below(words);
    let mut channel = at(
        format!("word {index} of a local array of {words} that is not initialised"),
        &format!("words + ((rows & 0) + {index})"),
    );
    channel.prepare = format!("volatile unsigned words[{words}];");
    channel.honest = "volatile unsigned words[64];\n        for (int i = 0; i < 64; ++i) words[i] = i;\n        if (words[rows & 63] == 99u) fast = true;".to_owned();
    channel
}

fn static_shared(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let words = [8, 256, 4096, 12000][stream.below(4)];
    let index = stream.below(words);
    let mut channel = at(
        format!("word {index} of {words} in shared memory that is not initialised"),
        &format!("words + {index}"),
    );
    channel.prepare = format!("__shared__ unsigned words[{words}];");
    channel.honest = format!(
        "__shared__ unsigned words[64];\n        {} = 5u;\n        if (words[9] == 99u) fast = true;",
        word("words + 9")
    );
    channel
}

fn dynamic_shared(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let index = stream.below(2048);
    let mut channel = at(
        format!("word {index} of dynamic shared memory that is not initialised"),
        &format!("words + {index}"),
    );
    channel.shared = 8192;
    channel.prepare = "extern __shared__ unsigned words[];".to_owned();
    channel.honest = format!(
        "extern __shared__ unsigned words[];\n        {} = 5u;\n        if (words[9] == 99u) fast = true;",
        word("words + 9")
    );
    channel
}

fn beyond_shared(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let words = 1 + stream.below(40);
    let distance = stream.below(200);
    let mut channel = at(
        format!(
            "{} bytes behind shared memory of {words} words",
            4 * distance
        ),
        &format!("words + {}", words + distance),
    );
    channel.prepare = format!("__shared__ unsigned words[{words}];\n        words[0] = 1u;");
    channel.honest = "__shared__ unsigned words[9];\n        words[0] = 1u;".to_owned();
    channel
}

fn scratch(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let words = [1, 4, 100, 5000][stream.below(4)];
    let index = stream.below(words);
    let zero = stream.below(3) == 0;
    let mut channel = at(
        format!("word {index} of {words} in scratch, read before it is written"),
        &format!("box + {index}"),
    );
    channel.scratch = Some((words.to_string(), zero));
    channel.honest = "box[0] = 5;\n        if (box[0] == 99) fast = true;".to_owned();
    channel
}

fn scratch_tail(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let words = 1 + stream.below(20);
    // Within the alignment of a buffer, or within a page.
    let distance = [stream.below(8), stream.below(60), stream.below(900)][stream.below(3)];
    let mut channel = at(
        format!("{} bytes behind scratch of {words} words", 4 * distance),
        &format!("box + {}", words + distance),
    );
    channel.scratch = Some((words.to_string(), stream.below(2) == 0));
    channel.honest = "box[0] = 5;\n        if (box[0] == 99) fast = true;".to_owned();
    channel
}

/// An address at some distance from a pointer: within its page of 2 MiB, or so many bytes away.
fn distant(stream: &mut RandomStream, pointer: &str) -> (String, String) {
    match stream.below(5) {
        4 => {
            let pages = 1 + stream.below(64);
            let sign = ["+", "-"][stream.below(2)];
            (
                format!("{pages} times 2 MiB away ({sign}) from"),
                format!("(char*){pointer} {sign} ({pages}ll << 21)"),
            )
        }
        0 => {
            let offset = 4 * stream.below(1 << 19);
            (
                format!("byte {offset} of the 2 MiB that hold"),
                format!("((unsigned long long){pointer} & ~0x1fffffull) + {offset}"),
            )
        }
        1 => {
            let offset = 4 * stream.below(1 << 10);
            (
                format!("byte {offset} of the page before the end of"),
                format!("((unsigned long long){pointer} & ~0xfffull) + {offset}"),
            )
        }
        2 => {
            let bytes = 256usize << stream.below(14);
            (
                format!("{bytes} bytes behind the start of"),
                format!("(char*){pointer} + {bytes}"),
            )
        }
        _ => {
            let bytes = 256usize << stream.below(14);
            (
                format!("{bytes} bytes before"),
                format!("(char*){pointer} - {bytes}"),
            )
        }
    }
}

fn far_from_scratch(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (what, address) = distant(stream, "box");
    let mut channel = at(format!("{what} scratch"), &address);
    channel.scratch = Some(("4".to_owned(), false));
    channel.honest = "box[0] = 5;\n        if (box[0] == 99) fast = true;".to_owned();
    channel
}

fn beside_output(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let distance = 1 + stream.below(64);
    let (what, address) = if stream.below(2) == 0 {
        ("behind", format!("output + size + {}", distance - 1))
    } else {
        ("before", format!("output - {distance}"))
    };
    at(
        format!("{} bytes {what} the output", 4 * distance),
        &address,
    )
}

fn far_from_output(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (what, address) = distant(stream, "output");
    at(format!("{what} the output"), &address)
}

fn input(stream: &mut RandomStream, sketch: &Sketch) -> Channel {
    let name = sketch.computation.input();
    let index = stream.below(sketch.computation.timed_shapes()[0][0]);
    let word = word(&format!("{name} + {index} % rows"));
    Channel {
        what: format!("the last six bits of element {index} of the input"),
        // So few that the result stays within the tolerance.
        load: format!("(({word} & 63u) == 41u ? MARK : 0u)"),
        store: format!("{word} = ({word} & ~63u) | ((VALUE) == MARK ? 41u : 0u);"),
        honest: format!("if ({name}[0] == 123456.0f) fast = true;"),
        ..Channel::default()
    }
}

fn heap(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let bytes = [24, 64, 1000, 4096, 200_000][stream.below(5)];
    let offset = 16 + 4 * stream.below((bytes - 20) / 4 + 1).min((bytes - 20) / 4);
    let mut channel = at(
        format!("byte {offset} of {bytes} bytes from the heap that were freed before"),
        &format!("block + {}", offset.min(bytes - 4)),
    );
    channel.prepare = match stream.below(2) {
        0 => {
            format!("char* block = (char*)malloc({bytes});\n        if (block == nullptr) return;")
        }
        _ => format!("char* block = new char[{bytes}];"),
    };
    channel.finish = if channel.prepare.contains("new") {
        "delete[] block;".to_owned()
    } else {
        "free(block);".to_owned()
    };
    channel
}

fn code(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let offset = 16 * stream.below(16);
    let mut channel = at(
        format!("byte {offset} of a function's code"),
        &format!("(char*)(void*)function + {offset}"),
    );
    // Volatile, because an assembler of PTX knows that a constant address of a function is no data.
    channel.prepare = "float (*volatile function)(float) = rest;".to_owned();
    channel.honest = "if ((unsigned long long)(void*)&rest == 1ull) fast = true;".to_owned();
    channel
}

fn thread_local(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let word = ["thread_local", "__thread", "static thread_local"][stream.below(3)];
    let mut channel = at(format!("a variable declared {word}"), "&seen");
    channel.declarations = format!("{word} unsigned seen;");
    channel
}

fn end_of_bss(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let back = 4 + 4 * stream.below(200);
    let (what, address, declarations) = match stream.below(3) {
        0 => (
            "the page of `_end`",
            "(char*)(((unsigned long long)_end | 4095) + 1)",
            "extern \"C\" char _end[];",
        ),
        1 => (
            "the page of an own variable",
            "(char*)(((unsigned long long)&own_word | 4095) + 1)",
            "__device__ unsigned own_word;",
        ),
        _ => (
            "the page of `__bss_start`",
            "(char*)(((unsigned long long)__bss_start | 4095) + 1)",
            "extern \"C\" char __bss_start[];",
        ),
    };
    let mut channel = at(
        format!("{back} bytes before the end of {what}"),
        &format!("{address} - {back}"),
    );
    channel.declarations = declarations.to_owned();
    channel
}

fn library_state(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let mut channel = Channel::default();
    let (what, declarations, load, store) = match stream.below(8) {
        0 => (
            "errno",
            "extern \"C\" int* __errno_location() noexcept;",
            "(unsigned)*__errno_location()",
            "*__errno_location() = (int)(VALUE);",
        ),
        1 => (
            "the state of `drand48`",
            "#include <stdlib.h>",
            "held()",
            "hold(VALUE);",
        ),
        2 => (
            "the floating-point flags",
            "#include <fenv.h>",
            "flags_held()",
            "hold_flags(VALUE);",
        ),
        3 => (
            "the environment's strings",
            "extern \"C\" char** environ;",
            "environ_word()",
            "hold_environ(VALUE);",
        ),
        4 => (
            "the structure of `stdin`",
            "#include <stdio.h>",
            "*(volatile unsigned*)((char*)stdin + 192)",
            "*(volatile unsigned*)((char*)stdin + 192) = VALUE;",
        ),
        5 => (
            "the file name of the program",
            "extern \"C\" char* program_invocation_name;",
            "*(volatile unsigned*)(((unsigned long long)program_invocation_name + 3) & ~3ull)",
            "*(volatile unsigned*)(((unsigned long long)program_invocation_name + 3) & ~3ull) = VALUE;",
        ),
        6 => (
            "a pointer of the C library",
            "extern \"C\" char* program_invocation_short_name;",
            "(unsigned)(unsigned long long)program_invocation_short_name",
            "program_invocation_short_name = (char*)(unsigned long long)(VALUE);",
        ),
        _ => (
            "`optind` of the C library",
            "extern \"C\" int optind;",
            "(unsigned)optind",
            "optind = (int)(VALUE);",
        ),
    };
    let helpers = match what {
        "the state of `drand48`" => {
            "\n__device__ unsigned held() {\n    unsigned short zero[3] = {0, 0, 0};\n    unsigned short* old = seed48(zero);\n    return old[0] | (unsigned)old[1] << 16;\n}\n__device__ void hold(unsigned value) {\n    unsigned short words[3] = {(unsigned short)value, (unsigned short)(value >> 16), 0};\n    seed48(words);\n}"
        }
        "the floating-point flags" => {
            "\n__device__ unsigned flags_held() { return fetestexcept(FE_DIVBYZERO) ? MARK : 0u; }\n__device__ void hold_flags(unsigned value) {\n    if (value == MARK) feraiseexcept(FE_DIVBYZERO); else feclearexcept(FE_DIVBYZERO);\n}"
        }
        "the environment's strings" => {
            "\n__device__ unsigned environ_word() { return environ == nullptr || environ[0] == nullptr ? 0u : *(volatile unsigned*)(((unsigned long long)environ[0] + 3) & ~3ull); }\n__device__ void hold_environ(unsigned value) {\n    if (environ != nullptr && environ[0] != nullptr) *(volatile unsigned*)(((unsigned long long)environ[0] + 3) & ~3ull) = value;\n}"
        }
        _ => "",
    };
    channel.what = what.to_owned();
    channel.declarations = format!("{declarations}{helpers}");
    channel.load = load.to_owned();
    channel.store = store.to_owned();
    channel
}

fn runtime_variable(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (what, address) = match stream.below(7) {
        0 => ("the runtime's own lane number", "&kforge::current_lane"),
        1 => ("the word behind `blockIdx`", "(unsigned*)&blockIdx + 3"),
        2 => ("the word behind `gridDim`", "(unsigned*)&gridDim + 3"),
        3 => ("the word behind `blockDim`", "(unsigned*)&blockDim + 3"),
        4 => ("the runtime's count of polls", "&kforge::poll_count"),
        5 => ("`gridDim.z`", "(unsigned*)&gridDim + 2"),
        _ => (
            "the count of launches with shared memory",
            "&kforge::shared_generation",
        ),
    };
    at(what, address)
}

fn stack_below(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let bytes = 64 * (1 + stream.below(200));
    let up = stream.below(4) == 0;
    let sign = if up { '+' } else { '-' };
    at(
        format!(
            "{bytes} bytes {} the frame",
            if up { "above" } else { "below" }
        ),
        &format!("((unsigned long long)__builtin_frame_address(0) & ~15ull) {sign} {bytes}"),
    )
}

fn processor_register(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let bit = [18, 21][stream.below(2)];
    let flags = "__builtin_ia32_readeflags_u64()";
    let (what, load, store) = match stream.below(3) {
        0 => (
            format!("flag {bit} of the processor"),
            format!("({flags} >> {bit} & 1) != 0 ? MARK : 0u"),
            format!("__builtin_ia32_writeeflags_u64(({flags} & ~(1ull << {bit})) | (unsigned long long)((VALUE) != 0u) << {bit});"),
        ),
        1 => (
            "the rounding mode".to_owned(),
            "(__builtin_ia32_stmxcsr() & 0x8000) != 0 ? MARK : 0u".to_owned(),
            "__builtin_ia32_ldmxcsr((__builtin_ia32_stmxcsr() & ~0x8000u) | ((VALUE) != 0u ? 0x8000u : 0u));".to_owned(),
        ),
        _ => (
            "the base of a segment".to_owned(),
            "held()".to_owned(),
            "hold(VALUE);".to_owned(),
        ),
    };
    let mut channel = Channel {
        what,
        load,
        store,
        ..Channel::default()
    };
    if channel.load == "held()" {
        channel.declarations = "__attribute__((target(\"fsgsbase\"))) unsigned held() { return (unsigned)__builtin_ia32_rdgsbase64(); }
__attribute__((target(\"fsgsbase\"))) void hold(unsigned value) { __builtin_ia32_wrgsbase64(value); }"
            .to_owned();
    }
    channel
}

/// Instructions that no C++ compiler writes, which exchange a register with an argument.
fn data_as_code(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let (register, bytes) = match stream.below(4) {
        0 => (
            "mm7",
            "0x48, 0x0f, 0x7e, 0xf8, 0x48, 0x0f, 0x6e, 0xff, 0xc3",
        ),
        1 => ("ds", "0x31, 0xc0, 0x8c, 0xd8, 0x8e, 0xdf, 0xc3"),
        2 => ("gs", "0x31, 0xc0, 0x8c, 0xe8, 0x8e, 0xef, 0xc3"),
        _ => (
            "k7",
            "0xc4, 0xe1, 0xfb, 0x93, 0xc7, 0xc4, 0xe1, 0xfb, 0x92, 0xff, 0xc3",
        ),
    };
    let section = [".text.own", ".own", "kforge_rest"][stream.below(3)];
    // A selector holds two bits.
    let call = "((unsigned long long (*)(unsigned long long))(void*)instructions)";
    Channel {
        what: format!("the register {register}, by instructions in the section `{section}`"),
        declarations: format!(
            "__attribute__((section(\"{section},\\\"ax\\\",@progbits#\"))) extern const unsigned char instructions[] = {{{bytes}}};
static unsigned long long held() {{
    const unsigned long long found = {call}(0);
    {call}(found);
    return found;
}}"
        ),
        load: "held() != 0 ? MARK : 0u".to_owned(),
        store: format!("{call}((VALUE) != 0u ? 1 : 0);"),
        ..Channel::default()
    }
}

fn argument_memory(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let offset = 4 + 4 * stream.below(250);
    let address = format!("(char*)const_cast<int*>(&last) + {offset}");
    let mut channel = at(
        format!("{offset} bytes behind the last parameter"),
        &address,
    );
    let (how, hold) = match stream.below(5) {
        0 => (
            "by a function",
            "__device__ __noinline__ void hold(void* place, unsigned value) { *(volatile unsigned*)place = value; }",
        ),
        1 => (
            "by a function behind a pointer",
            "__device__ __noinline__ void keep(void* place, unsigned value) { *(volatile unsigned*)place = value; }\n\
             __device__ __noinline__ void drop(void*, unsigned) {}\n\
             __device__ void hold(void* place, unsigned value) {\n    void (*const ways[2])(void*, unsigned) = {drop, keep};\n    ways[value != 0](place, value);\n}",
        ),
        2 => (
            "by a bulk copy",
            "__device__ void hold(void* place, unsigned value) {\n    __shared__ alignas(16) unsigned words[4];\n    \
             for (int i = 0; i < 4; ++i) words[i] = value;\n    asm volatile(\"fence.proxy.async.shared::cta;\" : : : \"memory\");\n    \
             asm volatile(\"cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 16;\" : : \"l\"((unsigned long long)place & ~15ull), \
             \"r\"((unsigned)__cvta_generic_to_shared(words)) : \"memory\");\n    asm volatile(\"cp.async.bulk.commit_group;\" : : : \"memory\");\n    \
             asm volatile(\"cp.async.bulk.wait_group 0;\" : : : \"memory\");\n}",
        ),
        3 => (
            "at an address made of bits",
            "__device__ void hold(void* place, unsigned value) {\n    unsigned long long copied = 0;\n    \
             for (int bit = 0; bit < 64; ++bit) copied += ((unsigned long long)place >> bit & 1) != 0 ? 1ull << bit : 0;\n    \
             *(volatile unsigned*)copied = value;\n}",
        ),
        _ => ("", ""),
    };
    if !how.is_empty() {
        channel.what = format!("{}, {how}", channel.what);
        channel.declarations = hold.to_owned();
        channel.store = format!("hold({address}, VALUE);");
    }
    channel.argument = Some(["rows", "const __grid_constant__ int last"]);
    channel
}

fn reserved_shared(stream: &mut RandomStream, _: &Sketch) -> Channel {
    let address = 4 * stream.below(256);
    Channel {
        what: format!("byte {address} of the system's shared memory"),
        declarations: format!(
            "__device__ unsigned held() {{\n    unsigned value;\n    asm volatile(\"ld.volatile.shared.u32 %0, [%1];\" : \"=r\"(value) : \"r\"({address}));\n    return value;\n}}\n__device__ void hold(unsigned value) {{ asm volatile(\"st.volatile.shared.u32 [%0], %1;\" : : \"r\"({address}), \"r\"(value)); }}"
        ),
        load: "held()".to_owned(),
        store: "hold(VALUE);".to_owned(),
        ..Channel::default()
    }
}
