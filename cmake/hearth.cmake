# Build helpers of hearth: one module = one folder = one namespace = one static library.
include(GoogleTest)
find_package(Threads REQUIRED)
find_package(GTest REQUIRED)
find_package(ggml REQUIRED)
find_package(llama REQUIRED)
find_package(PkgConfig REQUIRED)

# No module units here, so no scan of every file for them.
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)

find_program(HEARTH_CCACHE ccache)
if(HEARTH_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${HEARTH_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${HEARTH_CCACHE})
endif()

option(HEARTH_FUZZ "build the libFuzzer targets (needs Clang)" OFF)
set(HEARTH_SANITIZE "" CACHE STRING "value of -fsanitize=, empty for none")

# Compiler flags of test files only: templates of test libraries compile three times as fast without optimisation.
set(HEARTH_TEST_FLAGS "" CACHE STRING "compiler flags of the tests, after all others")

# Warnings are errors with the compilers the code is known to be clean with; another one may know new warnings.
set(werror_default OFF)
if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 14
    AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 17)
   OR (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 19
       AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 22))
  set(werror_default ON)
endif()
option(HEARTH_WERROR "warnings are errors" ${werror_default})

add_library(hearth_options INTERFACE)
target_compile_options(hearth_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                       -Wno-sign-conversion -Wnon-virtual-dtor)
if(HEARTH_WERROR)
  target_compile_options(hearth_options INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(hearth_options INTERFACE -Wthread-safety)
endif()
target_include_directories(hearth_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(hearth_options INTERFACE HEARTH_VERSION="${PROJECT_VERSION}")
if(HEARTH_SANITIZE)
  target_compile_options(hearth_options INTERFACE -fsanitize=${HEARTH_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(hearth_options INTERFACE -fsanitize=${HEARTH_SANITIZE})
  if(HEARTH_SANITIZE MATCHES "undefined")
    target_compile_options(hearth_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented code confuses GCC's flow analysis (<regex>, <functional>), and fences are not modelled.
    target_compile_options(hearth_options INTERFACE -Wno-maybe-uninitialized -Wno-tsan)
  endif()
endif()
if(HEARTH_FUZZ)
  # The modules must report their coverage to libFuzzer, not only the fuzzer's own file.
  target_compile_options(hearth_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(hearth_options INTERFACE -fsanitize=fuzzer-no-link)
  add_custom_target(hearth_fuzzers)
endif()

# hearth_module(NAME SOURCES a.cpp … DEPS base gguf … LIBS external::lib … TESTS x_test.cpp … FUZZ x_fuzz.cpp …)
#   target hearth_NAME (static library); each test file becomes one executable NAME_x_test known to ctest
#   under label `unit`; each fuzz file becomes NAME_x_fuzz when HEARTH_FUZZ is on.
#   DEPS are exactly the modules that the sources include (tests/layering compares them).
#   PRIVATE_LIBS: libraries no header shows. TEST_LIBS: what only the tests need.
#   TEST_LABELS: labels of the module's tests besides `unit`, e.g. `tsan` for those that have threads.
function(hearth_module name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPS;LIBS;PRIVATE_LIBS;TESTS;FUZZ;TEST_LIBS;TEST_LABELS" ${ARGN})
  if(M_SOURCES)
    add_library(hearth_${name} STATIC ${M_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(hearth_${name} PRIVATE ${M_PRIVATE_LIBS})
  else()
    add_library(hearth_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  list(TRANSFORM M_DEPS PREPEND hearth_)
  target_link_libraries(hearth_${name} ${scope} hearth_options Threads::Threads ${M_DEPS} ${M_LIBS})
  foreach(file IN LISTS M_TESTS)
    get_filename_component(stem ${file} NAME_WE)
    hearth_test(${name}_${stem} SOURCES ${file} LABELS unit ${M_TEST_LABELS} LIBS hearth_${name} ${M_TEST_LIBS})
  endforeach()
  if(HEARTH_FUZZ)
    foreach(file IN LISTS M_FUZZ)
      get_filename_component(stem ${file} NAME_WE)
      add_executable(${name}_${stem} ${file})
      target_link_libraries(${name}_${stem} PRIVATE hearth_${name} ${M_TEST_LIBS} -fsanitize=fuzzer)
      add_dependencies(hearth_fuzzers ${name}_${stem})
    endforeach()
  endif()
endfunction()

# hearth_test(TARGET SOURCES … LIBS … LABELS … [TIMEOUT s] [DEPENDS target…] [ENVIRONMENT NAME=VALUE…] [SERIAL]): a GoogleTest
# executable, each TEST a ctest case TARGET.SUITE.NAME. DEPENDS: programs the test starts. SERIAL: never at the same time as
# another test.
# Building the target tests_LABEL builds all tests of a label.
function(hearth_test target)
  cmake_parse_arguments(T "SERIAL" "TIMEOUT" "SOURCES;LIBS;LABELS;DEPENDS;ENVIRONMENT" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  if(HEARTH_SANITIZE)
    math(EXPR T_TIMEOUT "${T_TIMEOUT} * 5")
  endif()
  add_executable(${target} ${T_SOURCES})
  target_link_libraries(${target} PRIVATE ${T_LIBS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${target} PRIVATE HEARTH_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             HEARTH_BINARY_DIR="${PROJECT_BINARY_DIR}")
  target_compile_options(${target} PRIVATE ${HEARTH_TEST_FLAGS})
  if(T_DEPENDS)
    add_dependencies(${target} ${T_DEPENDS})
  endif()
  set(properties TIMEOUT ${T_TIMEOUT})
  if(T_SERIAL)
    list(APPEND properties RUN_SERIAL TRUE)
  endif()
  if(T_ENVIRONMENT)
    list(APPEND properties ENVIRONMENT "${T_ENVIRONMENT}")
  endif()
  hearth_labels(${target} ${T_LABELS})
  string(REPLACE ";" "\\;" labels "${T_LABELS}")
  gtest_discover_tests(${target} TEST_PREFIX ${target}. DISCOVERY_TIMEOUT 120
                       PROPERTIES LABELS "${labels}" ${properties})
endfunction()

# hearth_labels(TARGET LABEL…): TARGET is built by tests_LABEL.
function(hearth_labels target)
  foreach(label IN LISTS ARGN)
    if(NOT TARGET tests_${label})
      add_custom_target(tests_${label})
    endif()
    add_dependencies(tests_${label} ${target})
  endforeach()
endfunction()

foreach(label IN ITEMS unit asan tsan ring oracle net cluster)
  add_custom_target(tests_${label})
endforeach()
