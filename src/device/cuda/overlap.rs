//! Whether a kernel waits for the launch before it, which a launch with `overlap` must do.
//!
//! Text in, data out. Decides nothing: `prepared_plan` refuses the kernel.

use super::ptx_tokens::{Statement, statements, tokenize};

/// Whether an entry of the PTX, or a function that it may call, contains the instruction that waits.
pub(super) fn waits_for_previous_launch(ptx: &str, entry: &str) -> bool {
    let tokens = tokenize(ptx).unwrap_or_default();
    let statements = statements(&tokens);
    let is_head = |statement: &&Statement<'_, '_>| {
        statement.depth == 0 && (statement.has(".entry") || statement.has(".func"))
    };
    let mut is_inside = false;
    let mut calls = false;
    let mut waits_anywhere = false;
    for statement in &statements {
        if is_head(&statement) {
            is_inside = statement.has(".entry") && statement.has(entry);
            continue;
        }
        let waits = statement.has("griddepcontrol") && statement.has(".wait");
        if waits && is_inside {
            return true;
        }
        waits_anywhere |= waits;
        calls |= is_inside && statement.has("call");
    }
    // Calls are not followed: if the entry calls anything, a wait in any function counts.
    calls && waits_anywhere
}

#[cfg(test)]
mod tests {
    use super::waits_for_previous_launch;

    #[test]
    fn wait_counts_for_its_own_entry_and_for_called_functions() {
        let wait = "griddepcontrol.wait;";
        let ptx = |first: &str, second: &str, function: &str| {
            format!(
                ".func f()\n{{\n{function}\nret;\n}}\n.visible .entry a(\n.param .u64 a_param_0\n)\n{{\n{first}\nret;\n}}\n.visible .entry b()\n{{\n{second}\nret;\n}}\n"
            )
        };
        assert!(waits_for_previous_launch(&ptx(wait, "", ""), "a"));
        assert!(!waits_for_previous_launch(&ptx(wait, "", ""), "b"));
        assert!(waits_for_previous_launch(
            &ptx("", "call.uni f, ();", wait),
            "b"
        ));
        assert!(!waits_for_previous_launch(&ptx("", "", wait), "b"));
        assert!(!waits_for_previous_launch(
            &ptx("// griddepcontrol.wait;", "", ""),
            "a"
        ));
    }
}
