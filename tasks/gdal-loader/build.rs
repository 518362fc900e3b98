//! Writes one trampoline for each GDAL function in `symbols.txt`: a jump through a slot that is filled on first use.

use std::fmt::Write;

fn main() {
    println!("cargo:rerun-if-changed=symbols.txt");
    let symbols = std::fs::read_to_string("symbols.txt").expect("symbols.txt");
    let symbols: Vec<&str> = symbols.split_whitespace().collect();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("a target");
    let mut assembly = String::new();
    for (index, symbol) in symbols.iter().enumerate() {
        let jump = match arch.as_str() {
            "x86_64" => format!("mov r11d, {index}\n jmp {{slots}}[rip + {}]", index * 8),
            "aarch64" => format!(
                "movz w17, #{index}\n adrp x16, {{slots}}\n add x16, x16, :lo12:{{slots}}\n ldr x16, [x16, x17, lsl #3]\n br x16"
            ),
            other => panic!("no trampolines for {other}: link libgdal directly there"),
        };
        // Hidden: exported, they would stand in for libgdal's own calls of itself, which then wait for its loading for ever.
        // `{slots}` is a `sym` operand of the global_asm! block.
        writeln!(assembly, ".globl {symbol}\n.hidden {symbol}\n.type {symbol}, @function\n{symbol}:\n {jump}")
            .expect("a string");
    }
    let names: String = symbols.iter().map(|symbol| format!("c\"{symbol}\",\n")).collect();
    let count = symbols.len();
    let source = format!(
        "static SYMBOLS: [&CStr; {count}] = [\n{names}];\n\
         static SLOTS: [AtomicPtr<c_void>; {count}] = [const {{ AtomicPtr::new(first_call as *mut c_void) }}; {count}];\n\
         std::arch::global_asm!(r#\"\n.text\n{assembly}\"#, slots = sym SLOTS);\n"
    );
    let out = std::path::Path::new(&std::env::var("OUT_DIR").expect("OUT_DIR")).join("trampolines.rs");
    std::fs::write(out, source).expect("write trampolines.rs");
}
