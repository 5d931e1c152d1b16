"""The side that decides: resources in, configuration and ownership out.

Everything here but `local` is pure: values in, values out. It meets the pooler only in `pgweir_contract`.
"""
