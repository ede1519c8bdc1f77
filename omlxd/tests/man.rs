//! `packaging/man/omlxd.1` is what the command line says of itself.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use omlxd::options::Options;

/// What no option says.
const SECTIONS: &str = r#".SH SIGNALS
.TP
SIGTERM, SIGINT
no new requests; running ones may finish for \fIserver.drain\fR; exit 0. A second one exits at once.
.TP
SIGHUP
reads the configuration, the API keys and the TLS certificate again.
.SH EXIT STATUS
.TP
0
stopped as asked
.TP
1
something failed; the last line says what
.TP
2
wrong command line
.TP
69
the HTTP address is in use or cannot be bound
.TP
70
the engine's thread ended by a panic; the log says which, and a service manager starts omlxd again
.TP
75
another omlxd runs with this base directory
.TP
77
a file or directory has an owner or a mode that would let others in
.TP
78
the configuration has problems
.TP
130
a second signal cut the drain short
.SH FILES
.TP
~/.omlx/config.toml
the configuration, made by the first start
.TP
~/.omlx/api\-key
the API key, made by the first start
.TP
~/.omlx/logs/omlxd.log
the log
.SH SEE ALSO
.BR omlxctl (1)
"#;

#[test]
fn the_manual_page_is_what_the_command_line_says() {
    let man = clap_mangen::Man::new(Options::command());
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    man.render_subcommands_section(&mut page).unwrap();
    page.extend_from_slice(SECTIONS.as_bytes());
    let page = String::from_utf8(page).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/man/omlxd.1");
    if std::env::var_os("OMLX_UPDATE").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "run `OMLX_UPDATE=1 cargo test -p omlxd --test man`");
}
