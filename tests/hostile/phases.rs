//! When a hostile kernel uses what an earlier launch left: from the second launch on, every nth time, in large shapes only, after a
//! change of addresses or of inputs.
//!
//! Text in, text out. A phase knows a place only by the texts that read and write its 32-bit word.

use kforge::base::RandomStream;

use crate::sketch::Computation;

/// When a kernel acts on the mark that it finds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// In each launch that finds a mark.
    Later,
    /// A counter: in all but every nth launch.
    Every(usize),
    /// A counter: only after some launches, when checks may be over.
    After(usize),
    /// The launch that finds the mark removes it: every second launch leaves the place as it was.
    Alternate,
    /// In shapes of this size or larger.
    Large(usize),
    /// Where the output has the address that it had when the mark was made.
    SameAddress,
    /// Where the output has another address than when the mark was made: after the kernels of a pair swapped their memory.
    OtherAddress,
    /// Where the inputs are those of an earlier launch.
    SameInputs,
    /// Where the inputs differ from those of an earlier launch.
    OtherInputs,
}

impl Phase {
    pub(crate) fn draw(stream: &mut RandomStream, computation: Computation) -> Self {
        let [_, [rows, columns]] = computation.timed_shapes();
        match stream.below(9) {
            0 => Self::Later,
            1 => Self::Every(2 + stream.below(7)),
            2 => Self::After(1 + stream.below(40)),
            3 => Self::Alternate,
            4 => Self::Large(1 + stream.below(rows * columns)),
            5 => Self::SameAddress,
            6 => Self::OtherAddress,
            7 => Self::SameInputs,
            _ => Self::OtherInputs,
        }
    }

    pub(crate) fn describe(self) -> String {
        match self {
            Self::Later => "in each launch after the first".to_owned(),
            Self::Every(count) => format!("in all but every {count}th launch"),
            Self::After(count) => format!("after {count} launches"),
            Self::Alternate => "in every second launch".to_owned(),
            Self::Large(size) => format!("from {size} elements on"),
            Self::SameAddress => "where the output has its earlier address".to_owned(),
            Self::OtherAddress => "where the output has another address than before".to_owned(),
            Self::SameInputs => "where the inputs are the earlier ones".to_owned(),
            Self::OtherInputs => "where the inputs are other ones than before".to_owned(),
        }
    }

    /// Statements that read the place, set `fast`, and leave a mark.
    pub(crate) fn statements(self, place: &Place, computation: Computation) -> String {
        let Place { load, mark, .. } = place;
        let store = |value: &str| place.store_text(value);
        let tag = format!("{:#x}u", (mark & 0xff) << 24);
        let counter = format!("{:#x}u", (mark & 0xffff) << 16);
        let whole = format!("{mark:#x}u");
        let found = format!("const unsigned found = {load};");
        let count = format!(
            "{found}\n        const unsigned count = (found & 0xffff0000u) == {counter} ? found & 0xffffu : 0u;"
        );
        let next = store(&format!("({counter} | ((count + 1u) & 0xffffu))"));
        let input = computation.input();
        let address = format!(
            "const unsigned own = {tag} | ((unsigned)((unsigned long long)output >> 8) & 0xffffffu);"
        );
        let inputs = format!(
            "const unsigned own = {tag} | ((__float_as_uint({input}[0]) * 2654435761u) >> 8);"
        );
        let is_tagged = format!("(found & 0xff000000u) == {tag}");
        let keep_own = store("own");
        match self {
            Self::Later => format!(
                "{found}\n        fast = found == {whole};\n        {}",
                store(&whole)
            ),
            Self::Every(times) => {
                format!("{count}\n        fast = count % {times}u != 0u;\n        {next}")
            }
            Self::After(times) => {
                format!("{count}\n        fast = count >= {times}u;\n        {next}")
            }
            Self::Alternate => format!(
                "{found}\n        fast = found == {whole};\n        if (fast) {{ {} }} else {{ {} }}",
                store("0u"),
                store(&whole)
            ),
            Self::Large(size) => format!(
                "if (size >= {size}) {{\n        {found}\n        fast = found == {whole};\n        {}\n        }}",
                store(&whole)
            ),
            Self::SameAddress => {
                format!(
                    "{found}\n        {address}\n        fast = found == own;\n        {keep_own}"
                )
            }
            Self::OtherAddress => format!(
                "{found}\n        {address}\n        fast = {is_tagged} && found != own;\n        {keep_own}"
            ),
            Self::SameInputs => {
                format!(
                    "{found}\n        {inputs}\n        fast = found == own;\n        {keep_own}"
                )
            }
            Self::OtherInputs => format!(
                "{found}\n        {inputs}\n        fast = {is_tagged} && found != own;\n        {keep_own}"
            ),
        }
    }
}

/// A 32-bit word outside of what a launch may rely on.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// An expression for its value.
    pub(crate) load: String,
    /// A statement that changes it; `VALUE` is the new value.
    pub(crate) store: String,
    /// What this kernel writes there. Other kernels write other values.
    pub(crate) mark: u32,
}

impl Place {
    fn store_text(&self, value: &str) -> String {
        self.store.replace("VALUE", value)
    }
}
