# Given to CMake as -DCMAKE_PROJECT_INCLUDE=<this file>, only where ROS 2 comes from PyPI wheels.
#
# Why: the wheels' exported targets carry include directories of the machine that built them
# (/opt/python/cp3xx/include/... in the rosidl_generator_py targets), and CMake refuses an imported
# target whose INTERFACE_INCLUDE_DIRECTORIES do not exist. The directories are not needed, since the
# generator finds this machine's Python and NumPy by itself. The call is deferred to the end of the
# project, when every find_package() has run. On a ROS 2 installation nothing needs this file.

function(_drop_missing_include_dirs)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(kept "")
    foreach(directory IN LISTS directories)
      # Generator expressions cannot be checked at this point, so they stay.
      if(directory MATCHES "\\$<" OR EXISTS "${directory}")
        list(APPEND kept "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER CALL _drop_missing_include_dirs)
