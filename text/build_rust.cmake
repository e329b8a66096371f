# Runs cargo for text/CMakeLists.txt: offline where the crates are already here, else from the network, always with
# the versions of Cargo.lock.
set(ENV{CARGO_TARGET_DIR} ${TARGET_DIR})
set(command ${CARGO} build --release --locked --quiet --manifest-path ${RUST_DIR}/Cargo.toml)
execute_process(COMMAND ${CARGO} fetch --locked --offline --quiet --manifest-path ${RUST_DIR}/Cargo.toml
                RESULT_VARIABLE no_crates OUTPUT_QUIET ERROR_QUIET)
if(NOT no_crates)
  list(APPEND command --offline)
endif()
execute_process(COMMAND ${command} RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "cargo could not build text/rust (see above). Without the crates at hand it needs the network; "
                      "launch/setup fetches them.")
endif()
file(TOUCH ${LIBRARY})  # cargo leaves an unchanged library's date alone; ninja compares dates
