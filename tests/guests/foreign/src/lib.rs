//! A rule that wants to know what time it is, and to read files.

wit_bindgen::generate!({
    inline: "
        package test:foreign@0.1.0;
        interface files { read: func(path: string) -> list<u8>; }
        world foreign {
            include watchfire:rule/rule@0.1.0;
            import wasi:clocks/wall-clock@0.2.0;
            import files;
        }
    ",
    path: ["../../../wit", "wit"],
    world: "test:foreign/foreign",
    generate_all,
});

use exports::watchfire::rule::handler::{Guest, Manifest, Silence, Subscription};

struct Module;

impl Guest for Module {
    fn describe() -> Manifest {
        Manifest {
            name: "foreign".into(),
            version: "0.1.0".into(),
            description: String::new(),
            parameters: String::new(),
            state_version: 0,
            extra: None,
        }
    }
    fn start() -> Result<Subscription, String> {
        Ok(Subscription { metrics: vec![], silence: Silence::Off, schedules: vec![], extra: None })
    }
    fn on_batch() -> Result<(), String> {
        let seconds = wasi::clocks::wall_clock::now().seconds;
        let bytes = test::foreign::files::read("/etc/passwd").len();
        Err(format!("{seconds} {bytes}"))
    }
}

export!(Module);
